/* Statistics of channels-last pixels, and their normalisation with swish, in float32.

   The caller derives a shift and a scale for each channel from the statistics of its groups. */

#include "vectors.h"

/* x, but `limit` where `exceeds` is set; NaN exceeds nothing. */
INLINE vec limited(vec x, ints exceeds, float limit) {
    return (vec)(((ints)x & ~exceeds) | ((ints)splat(limit) & exceeds));
}

/* e to the x, as a power of two times the first terms of the series; within an ulp from -87 to 88, clamped outside. */
INLINE vec exponential(vec x) {
    const float magic = 12582912; /* 1.5 * 2**23: adding it rounds to a whole number */
    x = limited(limited(x, x < splat(-87), -87), x > splat(88), 88);
    const vec whole = (x * splat(1.44269504f) + splat(magic)) - splat(magic);
    const vec rest = (x - whole * splat(0.693359375f)) - whole * splat(-2.12194440e-4f);
    vec sum = splat(1.f / 5040);
    sum = sum * rest + splat(1.f / 720);
    sum = sum * rest + splat(1.f / 120);
    sum = sum * rest + splat(1.f / 24);
    sum = sum * rest + splat(1.f / 6);
    sum = sum * rest + splat(.5f);
    sum = sum * rest + splat(1);
    sum = sum * rest + splat(1);
    return (vec)((words)sum + ((words)__builtin_convertvector(whole, ints) << 23));
}

/* Mean and variance of each channel over pixels; these are read twice, and should fit in a cache. */
void moments(const void *x, long pixels, long channels, float *means, float *variances, long is_bfloat16) {
    for (long c = 0; c < channels; c++) means[c] = variances[c] = 0;
    for (long p = 0; p < pixels; p++)
        for (long c = 0; c < channels; c += LANES) *(vec *)(means + c) += load(x, p * channels + c, is_bfloat16);
    for (long c = 0; c < channels; c++) means[c] /= pixels;
    for (long p = 0; p < pixels; p++)
        for (long c = 0; c < channels; c += LANES) {
            const vec centred = load(x, p * channels + c, is_bfloat16) - *(const vec *)(means + c);
            *(vec *)(variances + c) += centred * centred;
        }
    for (long c = 0; c < channels; c++) variances[c] /= pixels;
}

/* shift + scale * x, then swish where asked for. */
void normalize(void *out, const void *x, long pixels, long channels, const float *shift, const float *scale,
               long swish, long is_bfloat16) {
    for (long p = 0; p < pixels; p++) {
        for (long c = 0; c < channels; c += LANES) {
            vec y = *(const vec *)(shift + c) + *(const vec *)(scale + c) * load(x, p * channels + c, is_bfloat16);
            if (swish) y /= splat(1) + exponential(-y);
            store(out, p * channels + c, y, is_bfloat16);
        }
    }
}
