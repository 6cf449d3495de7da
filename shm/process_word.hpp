// The word that is all of the state of a process table's entry, and the ids of processes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shm/layout.hpp"
#include "shm/process_table.hpp"

namespace millrace::shm::process_word {

enum class State : unsigned { kFree, kReserved, kAlive, kDying, kDead, kReaping };

// Generation 0-13, state 14-16, status known 17, status 18-33, actor 34-59.
// The actor is the pid that made a RESERVED entry, or the child's that it was entrusted to, the pid
// of an ALIVE one, or the id that reaps a REAPING one.
struct Word {
  std::uint32_t generation = 0;
  State state = State::kFree;
  bool status_known = false;
  std::uint32_t status = 0;
  std::uint32_t actor = 0;
};

inline constexpr unsigned kStateShift = ProcessTable::kStateShift;
inline constexpr std::uint64_t kStateMask = ProcessTable::kStateMask;
inline constexpr std::uint32_t kGenerations = 1U << (kProcessIdBits - kProcessIndexBits);

static_assert(static_cast<unsigned>(State::kFree) == 0, "in_use() asks for that");

constexpr std::uint64_t pack(const Word& w) noexcept {
  return std::uint64_t{w.generation} | static_cast<std::uint64_t>(w.state) << kStateShift |
         std::uint64_t{w.status_known} << 17U | std::uint64_t{w.status & 0xffffU} << 18U |
         std::uint64_t{w.actor} << 34U;
}

constexpr Word unpack(std::uint64_t bits) noexcept {
  Word w;
  w.generation = static_cast<std::uint32_t>(bits & (kGenerations - 1));
  w.state = static_cast<State>(bits >> kStateShift & kStateMask);
  w.status_known = (bits >> 17U & 1U) != 0;
  w.status = static_cast<std::uint32_t>(bits >> 18U & 0xffffU);
  w.actor = static_cast<std::uint32_t>(bits >> 34U & kProcessIdMask);
  return w;
}

constexpr std::size_t index_of(ProcessId id) noexcept { return id & (kMaxProcesses - 1); }
constexpr std::uint32_t generation_of(ProcessId id) noexcept {
  return (id & kProcessIdMask) >> kProcessIndexBits;
}
constexpr bool is_reserved(std::uint64_t bits, ProcessId id) noexcept {
  const Word w = unpack(bits);
  return w.generation == generation_of(id) && w.state == State::kReserved;
}
constexpr bool is_present_as(const Word& w, ProcessId id) noexcept {
  return w.generation == generation_of(id) &&
         (w.state == State::kReserved || w.state == State::kAlive);
}
constexpr ProcessId make_id(std::uint32_t generation, std::size_t index) noexcept {
  return generation << kProcessIndexBits | static_cast<ProcessId>(index);
}
constexpr void note_status(Word& w, int status) noexcept {
  if (status == kUnknownStatus) return;
  w.status_known = true;
  w.status = static_cast<std::uint32_t>(status) & 0xffffU;
}
constexpr std::uint32_t next_generation(std::uint32_t g) noexcept {
  return g + 1 == kGenerations ? 1 : g + 1;
}

}  // namespace millrace::shm::process_word
