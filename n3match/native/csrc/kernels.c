/* Fused element-wise work, in vectors as wide as the processor's registers.
   Called through ctypes with pointers to contiguous rows; see library.py.

   Optional: without a compiler at install time the same is done by tensor operations. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) /* clang defines it too */
#error "wants the vector types of GCC and clang: the tensor operations serve instead"
#endif

#define INTERFACE 9 /* to be raised when a signature changes: see library.py */
#define INLINE static inline __attribute__((always_inline))
#define MAX_STEPS 64
#define CERTAIN_GAP 745.0 /* as in ops/reference.py */
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)

#include "tile.inc"
#include "search.inc"

/* One version for each generation of processors, chosen at the call. */
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features) \
    PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define TARGET_END PRAGMA(GCC pop_options)
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors never pass between functions: all inlined */
#endif
#define AVX2 "avx2,fma"
#if defined(__clang__)
#define AVX512 "avx512f,avx512dq,avx512bw,avx512vl," AVX2
#else
#define AVX512 "avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512," AVX2
#endif

#if defined(__x86_64__)
#define GENERATIONS 1
#include <immintrin.h>
TARGET_BEGIN("avx512vnni," AVX512)
#define REGISTER 64
#define REGISTERS 32
#define LEVEL _avx512vnni
#define MULTIPLY_ADD(sum, x, y) __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
#include "nearest.inc"
#undef LEVEL
#define LEVEL _bytes
#define MULTIPLY_ADD(sum, x, y) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
#include "nearest.inc"
#undef LEVEL
#undef REGISTER
#undef REGISTERS
TARGET_END
TARGET_BEGIN(AVX512)
#define LEVEL _avx512
#define SIMD _mm512
#define OF_FLOATS __m512
#define REGISTER 64 /* bytes of a vector register */
#define REGISTERS 32
#include "level.inc"
TARGET_END
TARGET_BEGIN(AVX2)
#define LEVEL _avx2
#define SIMD _mm256
#define OF_FLOATS __m256
#define REGISTER 32
#define REGISTERS 16
#include "level.inc"
TARGET_END
#else
#define GENERATIONS 0
#endif

/* Each level has all of the lower ones; library.py has the names. */
enum { LEVEL_PLAIN, LEVEL_AVX2, LEVEL_AVX512, LEVEL_AVX512VNNI };

static int best_level(void)
{
#if GENERATIONS
#define HAS(feature) __builtin_cpu_supports(feature)
    __builtin_cpu_init();
    if (!HAS("avx2") || !HAS("fma")) return LEVEL_PLAIN;
    if (!HAS("avx512f") || !HAS("avx512dq") || !HAS("avx512bw") || !HAS("avx512vl"))
        return LEVEL_AVX2;
    return HAS("avx512vnni") ? LEVEL_AVX512VNNI : LEVEL_AVX512;
#undef HAS
#else
    return LEVEL_PLAIN;
#endif
}

static int level_in_use = LEVEL_PLAIN;

/* The best level that the processor has, but `most` at most: for all later calls. Returns it. */
int64_t n3match_native_use_level(int64_t most)
{
    int best = best_level();
    level_in_use = best < most ? best : (int)most;
    return level_in_use;
}

#define LEVEL _plain
#define SIMD _mm
#define OF_FLOATS __m128
#define REGISTER 16
#define REGISTERS 16
#include "level.inc"

/* Numbers below the normal range, where x86 takes a hundred times longer, count as 0 inside. */
#if defined(__x86_64__)
#define QUICK_BEGIN \
    unsigned before = __builtin_ia32_stmxcsr(); \
    __builtin_ia32_ldmxcsr(before | 0x8040);
#define QUICK_END __builtin_ia32_ldmxcsr(before);
#else
#define QUICK_BEGIN
#define QUICK_END
#endif

#if GENERATIONS
#define CHOOSE(name, arguments) \
    switch (level_in_use) { \
    case LEVEL_PLAIN: JOIN(name, _plain) arguments; break; \
    case LEVEL_AVX2: JOIN(name, _avx2) arguments; break; \
    default: JOIN(name, _avx512) arguments; \
    }
#else
#define CHOOSE(name, arguments) JOIN(name, _plain) arguments;
#endif

/* n3_NAME_f32 and n3_NAME_f64, the parameters given with REAL and INTEGER. */
#define EXPORT(name, parameters, arguments) \
    void JOIN(JOIN(n3_, name), TYPE) parameters \
    { \
        QUICK_BEGIN CHOOSE(JOIN(name, TYPE), arguments) QUICK_END \
    }

#define REAL float
#define INTEGER int32_t
#define TYPE _f32
#include "exports.inc"
#define REAL double
#define INTEGER int64_t
#define TYPE _f64
#include "exports.inc"

#include "descriptors.inc"

int64_t n3match_native_interface(void) { return INTERFACE; }
