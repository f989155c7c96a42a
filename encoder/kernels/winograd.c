/* A causal 3x3x3 convolution of channels-last frames by Winograd's filtering, a band of tiles at a time, in float32.

   The matrices and sizes come from c_library.py, which compiles this file. A tile is TILE by TILE pixels of up to 4
   frames. A band goes through three steps: `transform_input` transforms the inputs of its tiles, `multiply` multiplies
   them point by point by the kernels, `transform_output` transforms the sums back. `convolve` does all three; each may
   also be done in parts, by several threads. The order of sums depends neither on the parts nor on the width of
   vectors. */

#include "vectors.h"

enum { SIDE = TILE + 2, POINTS = SIDE * SIDE };

/* By filter: the number of frames filtered together, 0 for a clip's first frame. Smaller matrices end in zeros. */
static const float INPUT[TILE + 1][SIDE][SIDE] = INPUT_MATRICES, OUTPUT[TILE + 1][SIDE][SIDE] = OUTPUT_MATRICES;

struct band {
    const void *input;       /* `2+t h w c`, or `1 h w c` for a clip's first frame */
    void *output;            /* `t h w c'` */
    const float *kernels     /* `time_points points c'/PANEL c PANEL` */, *bias;
    const long *time_points; /* of this filter, indices into the kernels */
    float *values;           /* buffer of `frames points tiles c` */
    float *products;         /* buffer of `frames points tiles c'`; in both, tiles are rounded up to whole blocks */
    long values_step, products_step; /* from one point to the next */
    long height, width, channels, out_channels, filter, first_tile, tiles, points, is_bfloat16;
};

/* A small constant matrix times `columns` vectors; unrolling removes the terms that are zero. */
INLINE void mix(const float (*matrix)[SIDE], int rows, int columns, const vec *in, int in_step, vec *out, int out_step) {
    vec x[SIDE];
    UNROLLED for (int j = 0; j < columns; j++) x[j] = in[j * in_step];
    UNROLLED for (int i = 0; i < rows; i++) {
        vec sum = {0};
        UNROLLED for (int j = 0; j < columns; j++)
            if (matrix[i][j] != 0) sum += splat(matrix[i][j]) * x[j];
        out[i * out_step] = sum;
    }
}

/* Offset in a frame of each input pixel of a tile; -1 outside of the picture. */
INLINE void find_pixels(const struct band *b, long tile, long *pixels) {
    const long across = (b->width + TILE - 1) / TILE;
    const long top = tile / across * TILE - 1, left = tile % across * TILE - 1;
    for (long i = 0; i < POINTS; i++) {
        const long y = top + i / SIDE, x = left + i % SIDE;
        const int is_inside = 0 <= y && y < b->height && 0 <= x && x < b->width;
        pixels[i] = is_inside ? (y * b->width + x) * b->channels : -1;
    }
}

INLINE void transform_input_frames(const struct band *b, long first, long count, int filter, int frames) {
    const long frame_step = b->height * b->width * b->channels;
    for (long tile = first; tile < first + count; tile++) {
        long pixels[POINTS];
        find_pixels(b, b->first_tile + tile, pixels);
        for (long c = 0; c < b->channels; c += LANES) {
            vec pixel_values[SIDE], mixed[SIDE][POINTS], halfway[POINTS], values[POINTS];
            for (int i = 0; i < POINTS; i++) {
                UNROLLED for (int t = 0; t < frames; t++)
                    pixel_values[t] =
                        pixels[i] < 0 ? splat(0) : load(b->input, t * frame_step + pixels[i] + c, b->is_bfloat16);
                mix(INPUT[filter], frames, frames, pixel_values, 1, &mixed[0][i], POINTS);
            }
            for (int t = 0; t < frames; t++) {
                float *at = b->values + t * POINTS * b->values_step + tile * b->channels + c;
                for (int x = 0; x < SIDE; x++)
                    mix(INPUT[TILE], SIDE, SIDE, &mixed[t][x], SIDE, halfway + x, SIDE);
                for (int y = 0; y < SIDE; y++)
                    mix(INPUT[TILE], SIDE, SIDE, halfway + y * SIDE, 1, values + y * SIDE, 1);
                for (int i = 0; i < POINTS; i++) *(vec *)(at + i * b->values_step) = values[i];
            }
        }
    }
}

INLINE void transform_output_frames(const struct band *b, long first, long count, int filter, int frames) {
    const int outputs = filter ? filter : 1;
    const long across = (b->width + TILE - 1) / TILE, frame_step = b->height * b->width * b->out_channels;
    for (long tile = first; tile < first + count; tile++) {
        const long top = (b->first_tile + tile) / across * TILE, left = (b->first_tile + tile) % across * TILE;
        for (long c = 0; c < b->out_channels; c += LANES) {
            vec products[POINTS], halfway[TILE * SIDE], mixed[SIDE][TILE * TILE], sums[TILE];
            const vec bias = *(const vec *)(b->bias + c);
            for (int t = 0; t < frames; t++) {
                const float *at = b->products + t * POINTS * b->products_step + tile * b->out_channels + c;
                for (int i = 0; i < POINTS; i++) products[i] = *(const vec *)(at + i * b->products_step);
                for (int x = 0; x < SIDE; x++)
                    mix(OUTPUT[TILE], TILE, SIDE, products + x, SIDE, halfway + x, SIDE);
                for (int y = 0; y < TILE; y++)
                    mix(OUTPUT[TILE], TILE, SIDE, halfway + y * SIDE, 1, mixed[t] + y * TILE, 1);
            }
            for (int i = 0; i < TILE * TILE; i++) {
                const long y = top + i / TILE, x = left + i % TILE;
                const long pixel = (y * b->width + x) * b->out_channels + c;
                if (y >= b->height || x >= b->width) continue;
                mix(OUTPUT[filter], outputs, frames, &mixed[0][i], TILE * TILE, sums, 1);
                UNROLLED for (int t = 0; t < outputs; t++)
                    store(b->output, t * frame_step + pixel, sums[t] + bias, b->is_bfloat16);
            }
        }
    }
}

/* The values of ROWS tiles in all channels, times the kernels of two vectors of output channels. */
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

/* With the filter and the number of its input frames as constants. */
#define BY_FILTER(function) \
    switch (b->filter) { \
    case 0: function(b, first, count, 0, 1); break; \
    case 1: function(b, first, count, 1, 3); break; \
    case 2: function(b, first, count, 2, 4); break; \
    case 3: function(b, first, count, 3, 5); break; \
    default: function(b, first, count, 4, 6); \
    }

/* Tiles [first, first + count) of a band. */
void transform_input(const struct band *b, long first, long count) { BY_FILTER(transform_input_frames) }
void transform_output(const struct band *b, long first, long count) { BY_FILTER(transform_output_frames) }

/* Points [first, first + count) of a band, all of its tiles. */
void multiply(const struct band *b, long first, long count) {
    const long kernels_step = b->channels * b->out_channels;
    for (long p = first; p < first + count; p++) {
        const float *kernels = b->kernels + (b->time_points[p / POINTS] * POINTS + p % POINTS) * kernels_step;
        for (long o = 0; o < b->out_channels; o += 2 * LANES) {
            const float *panel = kernels + o / PANEL * PANEL * b->channels + o % PANEL;
            for (long tile = 0; tile < b->tiles; tile += ROWS)
                multiply_block(b, b->values + p * b->values_step + tile * b->channels, panel,
                               b->products + p * b->products_step + tile * b->out_channels + o);
        }
    }
}

/* All tiles, `max_tiles` at a time; the buffers need to hold no more than these. */
void convolve(const struct band *all, long max_tiles) {
    const long end = all->first_tile + all->tiles;
    struct band b = *all;
    for (; b.first_tile < end; b.first_tile += max_tiles) {
        b.tiles = end - b.first_tile < max_tiles ? end - b.first_tile : max_tiles;
        transform_input(&b, 0, b.tiles);
        multiply(&b, 0, b.points);
        transform_output(&b, 0, b.tiles);
    }
}
