"""An example of each command, which its --help ends with."""

EXAMPLES = {
    "demo": "latentmill demo out/demo",
    "doctor": "latentmill doctor configs/cogvideox-2b.yaml input.shards='shards/*.tar'",
    "pack": "latentmill pack my-videos/ shards/ --shard-samples 500",
    "plan": "latentmill plan configs/wan-2.1.yaml input.shards='shards/*.tar' --probe 16",
    "run": "latentmill run configs/wan-2.1.yaml input.shards='shards/*.tar' output.path=s3://bucket/latents",
    "text": "latentmill text out/latents text.encoder=path/to/Wan2.1-T2V-1.3B-Diffusers text.preset=wan",
    "submit": "latentmill submit configs/wan-2.1.yaml --on slurm --nodes 4 --gpus-per-node 8 --time 12:00:00",
    "verify": "latentmill verify out/latents --reencode 4 --repair",
    "retry-rejects": "latentmill retry-rejects out/latents --stage decode --reason timeout",
    "status": "latentmill status out/latents",
    "report": "latentmill report out/latents --pictures 4 --decode",
    "show": "latentmill show out/latents clip-02 --picture clip-02.png",
    "index": "latentmill index out/latents",
    "card": "latentmill card out/latents",
    "select": "latentmill select out/latents --where 'num_frames >= 49' --split val=0.01 --out selected.parquet",
    "export": "latentmill export out/latents --to musubi exports/musubi --text wan",
    "remove": "latentmill remove out/latents --keys takedown.txt --reason 'asked by the owner'",
    "bench encoder": "latentmill bench encoder --shapes 17x128x192 --threads 2 --backends diffusers auto",
    "bench decode": "latentmill bench decode --sizes 720p --rounds 3 --json decode.json",
    "bench pipeline": "latentmill bench pipeline encoder.name=tiny --clips 4 --rounds 1",
}
