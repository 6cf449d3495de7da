#include "runtime/process/shared_topology.hpp"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>

#include "sched/topology.hpp"
#include "shm/arena.hpp"
#include "shm/layout.hpp"

namespace millrace::runtime {
namespace {

using Word = std::atomic<std::uint64_t>;

Word& place() noexcept { return shm::Arena::instance().root().word[shm::ArenaRoot::kTopologyXml]; }

// Also the claim of whoever puts it there: not 0 from then on.
Word& length() noexcept {
  return shm::Arena::instance().root().word[shm::ArenaRoot::kTopologyXmlBytes];
}

void offer(const sched::Topology& topology) noexcept {
  // relaxed: advice; each start of a process asks
  if (!topology.is_thissystem() || length().load(std::memory_order_relaxed) != 0) return;
  try {
    shm::Arena& arena = shm::Arena::instance();
    const std::string xml = topology.export_xml();
    void* const block = arena.allocate(xml.size());
    std::memcpy(block, xml.data(), xml.size());
    std::uint64_t nobody = 0;
    // relaxed: only one may win; SHARE topology publishes
    if (!length().compare_exchange_strong(nobody, xml.size(), std::memory_order_relaxed)) {
      return arena.deallocate(block);
    }
    arena.give(block, shm::kNobody);
    // SHARE topology: release, to the acquire in take()
    place().store(reinterpret_cast<std::uint64_t>(block), std::memory_order_release);
  } catch (const std::exception&) {
    return;  // no room: they read the machine themselves
  }
}

std::string take() {
  // SHARE topology: acquire, with the release in offer()
  const std::uint64_t address = place().load(std::memory_order_acquire);
  // relaxed: written before
  const std::uint64_t bytes = length().load(std::memory_order_relaxed);
  const auto* const text = reinterpret_cast<const char*>(address);  // NOLINT(*-no-int-to-ptr)
  const bool there = address != 0 && bytes != 0 && bytes <= shm::kArenaLargest &&
                     shm::Arena::contains(text) && shm::Arena::contains(text + bytes - 1);
  return there ? std::string(text, bytes) : std::string();
}

}  // namespace

void offer_topology() noexcept {
  if (const sched::Topology* const known = sched::Topology::known()) offer(*known);
}

void take_offered_topology() noexcept { sched::Topology::set_relay({&take, &offer}); }

}  // namespace millrace::runtime
