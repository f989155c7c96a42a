/* Vectors of floats for any machine, read from and written to float32 or bfloat16. */

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 12 }; /* floats of a vector; tiles of a block, as many as leave registers for two kernels */
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 6 };
#elif defined(__aarch64__)
enum { LANES = 4, ROWS = 12 };
#else
enum { LANES = 4, ROWS = 6 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef unsigned words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef unsigned short halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec load(const void *at, long i, long is_bfloat16) {
    if (!is_bfloat16) return *(const vec *)((const float *)at + i);
    return (vec)(__builtin_convertvector(*(const halves *)((const unsigned short *)at + i), words) << 16);
}

/* To the nearest, ties to even; NaN stays NaN. */
INLINE void store(void *at, long i, vec x, long is_bfloat16) {
    if (!is_bfloat16) {
        *(vec *)((float *)at + i) = x;
    } else {
        const words bits = (words)x, nan = (words)(x != x);
        const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        *(halves *)((unsigned short *)at + i) = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), halves);
    }
}
