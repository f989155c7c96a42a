/* A causal 3x3x3 convolution of channels-last frames by Winograd's filtering, a band of tiles at a time, in float32.

   It does not share work among threads, and has no numbers of its own: the matrices and sizes below come from
   c_library.py, which compiles this. A tile is TILE by TILE pixels of up to 4 frames. A band goes through three steps:
   `see` transforms what its tiles see, `multiply` takes point by point the product with the kernels, `make` transforms
   the sums back. `convolve` does all three; or each may be done in parts. No sum's order depends on the parts or on the
   width of vectors. */

#include "vectors.h"

enum { SEEN = TILE + 2, POINTS = SEEN * SEEN };

/* By way: how many are filtered together, or 0 for one that sees itself alone. Zeros where a matrix is smaller. */
static const float INPUT[TILE + 1][SEEN][SEEN] = INPUT_MATRICES, OUTPUT[TILE + 1][SEEN][SEEN] = OUTPUT_MATRICES;

struct band {
    const void *seen;    /* `2+t h w c`, or `1 h w c` where a frame sees itself alone */
    void *made;          /* `t h w c'` */
    const float *kernels /* `times points c'/PANEL c PANEL` */, *bias;
    const long *times;   /* which of the kernels' points in time are this way's */
    float *values;       /* room for `seen points tiles c` */
    float *products;     /* room for `seen points tiles c'`; `tiles` is rounded up to whole blocks in both */
    long values_step, products_step; /* from one point to the next */
    long height, width, channels, out_channels, way, first_tile, tiles, points, is_bfloat16;
};

/* A small constant matrix times `columns` vectors; what is unrolled leaves nothing of its zeros. */
INLINE void mix(const float (*matrix)[SEEN], int rows, int columns, const vec *in, int in_step, vec *out, int out_step) {
    vec x[SEEN];
    UNROLLED for (int j = 0; j < columns; j++) x[j] = in[j * in_step];
    UNROLLED for (int i = 0; i < rows; i++) {
        vec sum = {0};
        UNROLLED for (int j = 0; j < columns; j++)
            if (matrix[i][j] != 0) sum += splat(matrix[i][j]) * x[j];
        out[i * out_step] = sum;
    }
}

/* Where each pixel that a tile sees begins in a frame; -1 where it is outside of the picture. */
INLINE void find_pixels(const struct band *b, long tile, long *pixels) {
    const long across = (b->width + TILE - 1) / TILE;
    const long top = tile / across * TILE - 1, left = tile % across * TILE - 1;
    for (long i = 0; i < POINTS; i++) {
        const long y = top + i / SEEN, x = left + i % SEEN;
        const int is_inside = 0 <= y && y < b->height && 0 <= x && x < b->width;
        pixels[i] = is_inside ? (y * b->width + x) * b->channels : -1;
    }
}

INLINE void see_frames(const struct band *b, long first, long count, int way, int frames) {
    const long frame_step = b->height * b->width * b->channels;
    for (long tile = first; tile < first + count; tile++) {
        long pixels[POINTS];
        find_pixels(b, b->first_tile + tile, pixels);
        for (long c = 0; c < b->channels; c += LANES) {
            vec seen[SEEN], mixed[SEEN][POINTS], halfway[POINTS], values[POINTS];
            for (int i = 0; i < POINTS; i++) {
                UNROLLED for (int t = 0; t < frames; t++)
                    seen[t] = pixels[i] < 0 ? splat(0) : load(b->seen, t * frame_step + pixels[i] + c, b->is_bfloat16);
                mix(INPUT[way], frames, frames, seen, 1, &mixed[0][i], POINTS);
            }
            for (int t = 0; t < frames; t++) {
                float *at = b->values + t * POINTS * b->values_step + tile * b->channels + c;
                for (int x = 0; x < SEEN; x++)
                    mix(INPUT[TILE], SEEN, SEEN, &mixed[t][x], SEEN, halfway + x, SEEN);
                for (int y = 0; y < SEEN; y++)
                    mix(INPUT[TILE], SEEN, SEEN, halfway + y * SEEN, 1, values + y * SEEN, 1);
                for (int i = 0; i < POINTS; i++) *(vec *)(at + i * b->values_step) = values[i];
            }
        }
    }
}

INLINE void make_frames(const struct band *b, long first, long count, int way, int frames) {
    const int made = way ? way : 1;
    const long across = (b->width + TILE - 1) / TILE, frame_step = b->height * b->width * b->out_channels;
    for (long tile = first; tile < first + count; tile++) {
        const long top = (b->first_tile + tile) / across * TILE, left = (b->first_tile + tile) % across * TILE;
        for (long c = 0; c < b->out_channels; c += LANES) {
            vec products[POINTS], halfway[TILE * SEEN], mixed[SEEN][TILE * TILE], sums[TILE];
            const vec bias = *(const vec *)(b->bias + c);
            for (int t = 0; t < frames; t++) {
                const float *at = b->products + t * POINTS * b->products_step + tile * b->out_channels + c;
                for (int i = 0; i < POINTS; i++) products[i] = *(const vec *)(at + i * b->products_step);
                for (int x = 0; x < SEEN; x++)
                    mix(OUTPUT[TILE], TILE, SEEN, products + x, SEEN, halfway + x, SEEN);
                for (int y = 0; y < TILE; y++)
                    mix(OUTPUT[TILE], TILE, SEEN, halfway + y * SEEN, 1, mixed[t] + y * TILE, 1);
            }
            for (int i = 0; i < TILE * TILE; i++) {
                const long y = top + i / TILE, x = left + i % TILE;
                const long pixel = (y * b->width + x) * b->out_channels + c;
                if (y >= b->height || x >= b->width) continue;
                mix(OUTPUT[way], made, frames, &mixed[0][i], TILE * TILE, sums, 1);
                UNROLLED for (int t = 0; t < made; t++)
                    store(b->made, t * frame_step + pixel, sums[t] + bias, b->is_bfloat16);
            }
        }
    }
}

/* ROWS tiles' values of all channels times the kernels of two vectors of output channels. */
INLINE void multiply_block(const struct band *b, const float *values, const float *kernels, float *products) {
    vec sums[ROWS][2] = {0};
    for (long c = 0; c < b->channels; c++) {
        const vec left = *(const vec *)(kernels + c * PANEL), right = *(const vec *)(kernels + c * PANEL + LANES);
        UNROLLED for (int i = 0; i < ROWS; i++) {
            const vec value = splat(values[i * b->channels + c]);
            sums[i][0] += value * left;
            sums[i][1] += value * right;
        }
    }
    UNROLLED for (int i = 0; i < ROWS; i++) {
        *(vec *)(products + i * b->out_channels) = sums[i][0];
        *(vec *)(products + i * b->out_channels + LANES) = sums[i][1];
    }
}

/* With the way and the number of frames that it sees as constants. */
#define BY_WAY(function) \
    switch (b->way) { \
    case 0: function(b, first, count, 0, 1); break; \
    case 1: function(b, first, count, 1, 3); break; \
    case 2: function(b, first, count, 2, 4); break; \
    case 3: function(b, first, count, 3, 5); break; \
    default: function(b, first, count, 4, 6); \
    }

/* Tiles [first, first + count) of a band. */
void see(const struct band *b, long first, long count) { BY_WAY(see_frames) }
void make(const struct band *b, long first, long count) { BY_WAY(make_frames) }

/* Points [first, first + count) of a band, all of its tiles. */
void multiply(const struct band *b, long first, long count) {
    const long kernels_step = b->channels * b->out_channels;
    for (long p = first; p < first + count; p++) {
        const float *kernels = b->kernels + (b->times[p / POINTS] * POINTS + p % POINTS) * kernels_step;
        for (long o = 0; o < b->out_channels; o += 2 * LANES) {
            const float *panel = kernels + o / PANEL * PANEL * b->channels + o % PANEL;
            for (long tile = 0; tile < b->tiles; tile += ROWS)
                multiply_block(b, b->values + p * b->values_step + tile * b->channels, panel,
                               b->products + p * b->products_step + tile * b->out_channels + o);
        }
    }
}

/* All of `tiles`, however many: `together` at a time, which is what there must be room for. */
void convolve(const struct band *all, long together) {
    const long end = all->first_tile + all->tiles;
    struct band b = *all;
    for (; b.first_tile < end; b.first_tile += together) {
        b.tiles = end - b.first_tile < together ? end - b.first_tile : together;
        see(&b, 0, b.tiles);
        multiply(&b, 0, b.points);
        make(&b, 0, b.tiles);
    }
}
