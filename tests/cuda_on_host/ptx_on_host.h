// Instructions of PTX on the host, for what ptx.py makes of a program. Arithmetic is as the PTX manual has it; of the
// approximations (ex2, rcp) the result is rounded correctly, but where a GPU leaves half of the digits away.
#pragma once

#define HOST_STACK (256 * 1024)
#include <stdint.h>

#include <type_traits>

#include "cuda_on_host.h"

namespace ptx {

// ---- registers --------------------------------------------------------------------------------------------------------

template <class T, class R>
T get(const R& of) {
    static_assert(sizeof(T) <= sizeof(R), "");
    T value;
    memcpy(&value, &of, sizeof(T));
    return value;
}
// A register wider than a value takes its sign along.
template <class R, class T>
void set(R& to, T value) {
    if constexpr (sizeof(T) == sizeof(R)) memcpy(&to, &value, sizeof(T));
    else {
        static_assert(sizeof(T) < sizeof(R) && std::is_integral<T>::value, "");
        to = (R)(typename std::make_signed<R>::type)value;
    }
}
template <class Part, class T>
Part part(T of, int i) {
    Part value;
    memcpy(&value, (const char*)&of + i * sizeof(Part), sizeof(Part));
    return value;
}
template <class T, class Part>
T packed(const Part (&parts)[sizeof(T) / sizeof(Part)]) {
    T value;
    memcpy(&value, parts, sizeof(T));
    return value;
}

inline unsigned tid_x() { return threadIdx.x; }
inline unsigned ntid_x() { return blockDim.x; }
inline unsigned ctaid_x() { return blockIdx.x; }
inline unsigned ctaid_y() { return blockIdx.y; }
inline unsigned ctaid_z() { return blockIdx.z; }
inline unsigned nctaid_x() { return gridDim.x; }

// ---- memory -----------------------------------------------------------------------------------------------------------

// Addresses of shared memory are numbers from 0 on: first the variables of a kernel, then what it was launched with.
inline bool reserve(size_t bytes) {
    host::static_shared.resize(std::max(host::static_shared.size(), bytes));
    return true;
}
inline uint64_t up_to_16(uint64_t n) { return (n + 15) / 16 * 16; }
inline void bad(const char* what, uint64_t at, int size, int line) {
    fprintf(stderr, "line %d of the kernel: %s: %d bytes at 0x%llx\n", line, what, size, (unsigned long long)at);
    host::fail("a bad access");
}
inline unsigned char* shared_at(uint64_t at, uint64_t static_end, int size, int line) {
    at = (uint32_t)at;
    if (at % size) bad("not aligned in shared memory", at, size, line);
    if (at + size <= static_end) return host::static_shared.data() + at;
    const uint64_t start = up_to_16(static_end);
    if (at < start || at + size > start + host::dynamic_size) bad("outside of shared memory", at, size, line);
    return host::shared + (at - start);
}
inline unsigned char* memory_at(uint64_t at, int size, int line) {
    if (at < 65536) bad("null", at, size, line);
    if (at % size) bad("not aligned", at, size, line);
    return (unsigned char*)at;
}
inline uint64_t of_shared(uint64_t at, uint64_t static_end) {
    const uint64_t start = up_to_16(static_end);
    return (uint64_t)(at < start ? host::static_shared.data() + at : host::shared + (at - start));
}
inline uint64_t to_shared(uint64_t generic, uint64_t static_end) {
    const uint64_t own = (uint64_t)host::static_shared.data();
    return generic - own < static_end ? generic - own : generic - (uint64_t)host::shared + up_to_16(static_end);
}
template <class T> T atom_add(T* at, T x) { const T old = *at; *at = old + x; return old; }
template <class T> T atom_max(T* at, T x) { const T old = *at; *at = std::max(old, x); return old; }
template <class T> T atom_min(T* at, T x) { const T old = *at; *at = std::min(old, x); return old; }
template <class T> T atom_or(T* at, T x) { const T old = *at; *at = old | x; return old; }
template <class T> T atom_exch(T* at, T x) { const T old = *at; *at = x; return old; }

// ---- warps ------------------------------------------------------------------------------------------------------------

inline void all_lanes(unsigned lanes) {
    if (lanes != 0xffffffffu) host::fail("a collective for some lanes of a warp");
}
inline uint32_t shuffled(int line, uint32_t value, int from, bool in, bool& inside) {
    inside = in;
    return host::exchange(line, value, in ? from : host::current & 31);
}
inline void whole_warp(uint32_t clamp, uint32_t expected, uint32_t lanes) {
    all_lanes(lanes);
    if (clamp != expected) host::fail("a shuffle within parts of a warp");
}
inline uint32_t shfl_bfly(int line, uint32_t value, uint32_t by, uint32_t clamp, uint32_t lanes, bool& inside) {
    whole_warp(clamp, 31, lanes);
    return shuffled(line, value, (host::current & 31) ^ (by & 31), true, inside);
}
inline uint32_t shfl_idx(int line, uint32_t value, uint32_t from, uint32_t clamp, uint32_t lanes, bool& inside) {
    whole_warp(clamp, 31, lanes);
    return shuffled(line, value, from & 31, true, inside);
}
inline uint32_t shfl_up(int line, uint32_t value, uint32_t by, uint32_t clamp, uint32_t lanes, bool& inside) {
    whole_warp(clamp, 0, lanes);
    const int from = (host::current & 31) - (int)(by & 31);
    return shuffled(line, value, from, from >= 0, inside);
}
inline uint32_t shfl_down(int line, uint32_t value, uint32_t by, uint32_t clamp, uint32_t lanes, bool& inside) {
    whole_warp(clamp, 31, lanes);
    const int from = (host::current & 31) + (int)(by & 31);
    return shuffled(line, value, from, from < 32, inside);
}
inline uint32_t vote_ballot(int line, bool value, uint32_t lanes) {
    all_lanes(lanes);
    return host::ballot(line, value);
}
inline bool vote_any(int line, bool value, uint32_t lanes) { return vote_ballot(line, value, lanes) != 0; }
inline bool vote_all(int line, bool value, uint32_t lanes) { return vote_ballot(line, value, lanes) == 0xffffffffu; }
inline bool whole(uint32_t bytes, uint32_t size) {
    if (bytes != 0 && bytes != size) host::fail("a part of a copy");
    return bytes != 0;
}

// ---- arithmetic -------------------------------------------------------------------------------------------------------

template <class T> using If_float = typename std::enable_if<std::is_floating_point<T>::value, T>::type;
template <class T> using If_int = typename std::enable_if<std::is_integral<T>::value, T>::type;
template <class T> struct Wider { typedef typename std::conditional<std::is_signed<T>::value, int64_t, uint64_t>::type type; };
template <> struct Wider<int16_t> { typedef int32_t type; };
template <> struct Wider<uint16_t> { typedef uint32_t type; };

template <class T> If_float<T> add(T x, T y) { return x + y; }
template <class T> If_float<T> sub(T x, T y) { return x - y; }
template <class T> If_float<T> mul(T x, T y) { return x * y; }
template <class T> If_int<T> add(T x, T y) { return (T)((uint64_t)x + (uint64_t)y); }
template <class T> If_int<T> sub(T x, T y) { return (T)((uint64_t)x - (uint64_t)y); }
template <class T> T add_rn(T x, T y) { return x + y; }
template <class T> T sub_rn(T x, T y) { return x - y; }
template <class T> T mul_rn(T x, T y) { return x * y; }
template <class T> T mul_lo(T x, T y) { return (T)((uint64_t)x * (uint64_t)y); }
template <class T> T mul_hi(T x, T y) { return (T)((__int128)x * (__int128)y >> 8 * sizeof(T)); }
template <class T> typename Wider<T>::type mul_wide(T x, T y) { return (typename Wider<T>::type)x * y; }
template <class T> T mad_lo(T x, T y, T z) { return (T)((uint64_t)x * (uint64_t)y + (uint64_t)z); }
template <class T> typename Wider<T>::type mad_wide(T x, T y, typename Wider<T>::type z) {
    return add<typename Wider<T>::type>(mul_wide(x, y), z);
}
template <class T> T div(T x, T y) { return y == 0 ? (T)-1 : x / y; }
template <class T> T rem(T x, T y) { return y == 0 ? x : x % y; }
template <class T> T div_rn(T x, T y) { return x / y; }
template <class T> T fma_rn(T x, T y, T z) { return std::fma(x, y, z); }
template <class T> T fma_rm(float x, float y, float z) {  // towards minus infinity
    const double p = (double)x * y, s = p + z, back = s - p, lost = (p - (s - back)) + (z - back);
    const float f = (float)s;
    return f > s || (f == s && lost < 0) ? std::nextafterf(f, -INFINITY) : f;
}
template <class T> If_float<T> max(T x, T y) { return std::fmax(x, y); }
template <class T> If_float<T> min(T x, T y) { return std::fmin(x, y); }
template <class T> If_int<T> max(T x, T y) { return x > y ? x : y; }
template <class T> If_int<T> min(T x, T y) { return x < y ? x : y; }
template <class T> If_float<T> neg(T x) { return -x; }
template <class T> If_int<T> neg(T x) { return sub<T>(0, x); }
template <class T> If_float<T> abs(T x) { return std::fabs(x); }
template <class T> T sqrt_rn(T x) { return std::sqrt(x); }
template <class T> T rcp_rn(T x) { return 1 / x; }
template <class T> T rcp_approx_ftz(T x) {
    if constexpr (sizeof(T) == 4) return 1 / x;
    else return get<T>(get<uint64_t>(1 / x) & 0xffffffff00000000ull);
}
template <class T> T ex2_approx_ftz(T x) { return std::exp2(x); }

template <class T> T and_(T x, T y) { return x & y; }
template <class T> T or_(T x, T y) { return x | y; }
template <class T> T xor_(T x, T y) { return x ^ y; }
template <class T> T not_(T x) { return std::is_same<T, bool>::value ? (T)!x : (T)~x; }
template <class T> T shl(T x, uint32_t by) { return by >= 8 * sizeof(T) ? (T)0 : (T)((uint64_t)x << by); }
template <class T> T shr(T x, uint32_t by) { return by >= 8 * sizeof(T) ? (T)(x < 0 ? -1 : 0) : (T)(x >> by); }
template <class T> T bfi(T x, T into, T at, T length) {  // `length` bits of x, from bit `at` on
    const T from = at & 0xff, bits = length & 0xff, ones = bits >= 8 * sizeof(T) ? ~(T)0 : ((T)1 << bits) - 1;
    const T mask = from >= 8 * sizeof(T) ? 0 : ones << from;
    return (into & ~mask) | (from >= 8 * sizeof(T) ? 0 : x << from & mask);
}
template <class T> uint32_t popc(T x) { return (uint32_t)__builtin_popcountll((uint64_t)x); }
template <class T> uint32_t clz(T x) { return x ? __builtin_clzll((uint64_t)x) - (64 - 8 * sizeof(T)) : 8 * sizeof(T); }
template <class T> T selp(T x, T y, bool which) { return which ? x : y; }

template <class T> bool setp_eq(T x, T y) { return x == y; }
template <class T> bool setp_ne(T x, T y) { return !(x != x) && !(y != y) && x != y; }
template <class T> bool setp_lt(T x, T y) { return x < y; }
template <class T> bool setp_le(T x, T y) { return x <= y; }
template <class T> bool setp_gt(T x, T y) { return x > y; }
template <class T> bool setp_ge(T x, T y) { return x >= y; }
template <class T> bool setp_equ(T x, T y) { return !(x < y || x > y); }
template <class T> bool setp_neu(T x, T y) { return !(x == y); }
template <class T> bool setp_ltu(T x, T y) { return !(x >= y); }
template <class T> bool setp_leu(T x, T y) { return !(x > y); }
template <class T> bool setp_gtu(T x, T y) { return !(x <= y); }
template <class T> bool setp_geu(T x, T y) { return !(x < y); }
template <class T> bool setp_nan(T x, T y) { return x != x || y != y; }
template <class T> bool setp_num(T x, T y) { return !setp_nan(x, y); }

// ---- conversions: to, from --------------------------------------------------------------------------------------------

template <class T, class F>
T clamped(F x) {  // an integral number; to the nearest there is
    if (x != x) return sizeof(T) <= 4 && sizeof(F) == 4 ? (T)0 : (T)((uint64_t)1 << (8 * sizeof(T) - 1));
    if (x >= std::ldexp((F)1, 8 * sizeof(T) - std::is_signed<T>::value)) return std::numeric_limits<T>::max();
    if (x < (F)std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
    return (T)x;
}
template <class T, class F> T cvt(F x) { return (T)x; }
template <class T, class F> T cvt_rn(F x) { return (T)x; }
template <class T, class F, class I>
T integral(I x) {
    if constexpr (std::is_floating_point<T>::value) return (T)x;
    else return clamped<T>(x);
}
template <class T, class F> T cvt_rni(F x) { return integral<T, F>(std::nearbyint(x)); }
template <class T, class F> T cvt_rzi(F x) { return integral<T, F>(std::trunc(x)); }
template <class T, class F> T cvt_rmi(F x) { return integral<T, F>(std::floor(x)); }
template <class T, class F> T cvt_rpi(F x) { return integral<T, F>(std::ceil(x)); }
template <class T, class F> T cvt_sat(F x) { return x != x ? 0 : std::min((F)1, std::max((F)0, x)); }

}  // namespace ptx
