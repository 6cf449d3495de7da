#include "shm/stream_copy.hpp"

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace millrace::shm {

#if defined(__SSE2__)
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kWorth = 2048;  // bytes; the C library's memcpy() is fine below

/// What lies between two aligned lines goes by `Store`, a line at a time; the ends by memcpy().
template <class Store>
void copy_lines(void* to, const void* from, std::size_t bytes, Store store) noexcept {
  auto* out = static_cast<std::byte*>(to);
  const auto* in = static_cast<const std::byte*>(from);
  const std::size_t head = (kLine - reinterpret_cast<std::uintptr_t>(out) % kLine) % kLine;
  std::memcpy(out, in, head);
  out += head;
  in += head;
  bytes -= head;
  for (; bytes >= kLine; bytes -= kLine, out += kLine, in += kLine) {
    const auto* source = reinterpret_cast<const __m128i*>(in);
    auto* target = reinterpret_cast<__m128i*>(out);
    const __m128i a = _mm_loadu_si128(source);
    const __m128i b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2);
    const __m128i d = _mm_loadu_si128(source + 3);
    store(target, a);
    store(target + 1, b);
    store(target + 2, c);
    store(target + 3, d);
  }
  std::memcpy(out, in, bytes);
}

}  // namespace

void stream_copy(void* to, const void* from, std::size_t bytes) noexcept {
  if (bytes < kWorth) {
    std::memcpy(to, from, bytes);
    return;
  }
  copy_lines(to, from, bytes, [](__m128i* at, __m128i value) { _mm_stream_si128(at, value); });
  _mm_sfence();  // invariant 1
}

void near_copy(void* to, const void* from, std::size_t bytes) noexcept {
  if (bytes < kWorth) {
    std::memcpy(to, from, bytes);
    return;
  }
  copy_lines(to, from, bytes, [](__m128i* at, __m128i value) {
    _mm_store_si128(at, value);
    asm volatile("" ::: "memory");  // else compilers make a call of memcpy() of the loop
  });
}
#else
void stream_copy(void* to, const void* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}

void near_copy(void* to, const void* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}
#endif

}  // namespace millrace::shm
