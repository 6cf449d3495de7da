#include "runtime/channels/peer_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>

namespace millrace::runtime {
namespace {

constexpr std::size_t kLaneBytes = PeerLane::kHead + PeerLane::kArea;
constexpr std::size_t kMemoryBytes = 2 * kLaneBytes;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// After kNoOffer: " <process> <descriptor> <32 hexadecimal digits>".
constexpr const char* kOfferText = "%s %d %d %016llx%016llx";
constexpr std::size_t kTextBytes = 128;

using Text = std::array<char, kTextBytes>;
using Name = std::array<char, 48>;
using Number = std::array<unsigned long long, 2>;

struct Offer {
  int process = 0;
  int descriptor = -1;
  Number number{};
};

// Half the descriptors of a process are left to the sockets themselves.
bool is_spare(const Descriptor& memory) noexcept {
  rlimit limit{};
  return memory.get() >= 0 && ::getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
         static_cast<rlim_t>(memory.get()) < limit.rlim_cur / 2;
}

Name name_of(const Number& number) noexcept {
  Name name{};
  std::snprintf(name.data(), name.size(), "millrace-peer-%016llx%016llx", number[0], number[1]);
  return name;
}

Descriptor make_memory(const Number& number) noexcept {
  Descriptor memory(::memfd_create(name_of(number).data(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!is_spare(memory) || ::ftruncate(memory.get(), off_t{kMemoryBytes}) != 0 ||
      ::fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
    return {};
  }
  return memory;
}

// False: the frame offers nothing.
bool parse(std::string_view frame, Offer& offer) noexcept {
  Text text{};
  if (frame.size() >= text.size() || !frame.starts_with(kNoOffer)) return false;
  frame.copy(text.data(), frame.size());
  return std::sscanf(text.data() + kNoOffer.size(), " %d %d %16llx%16llx", &offer.process,
                     &offer.descriptor, &offer.number[0], &offer.number[1]) == 4 &&
         offer.process > 0 && offer.descriptor >= 0;
}

// What a descriptor refers to is the memory of that number.
bool is_memory(const Descriptor& opened, const Number& number) noexcept {
  Text link{};
  Text wanted{};
  Text found{};
  std::snprintf(link.data(), link.size(), "/proc/self/fd/%d", opened.get());
  std::snprintf(wanted.data(), wanted.size(), "/memfd:%s (deleted)", name_of(number).data());
  const ssize_t size = ::readlink(link.data(), found.data(), found.size() - 1);
  if (size < 0 || std::strcmp(found.data(), wanted.data()) != 0) return false;
  struct stat file {};
  return ::fstat(opened.get(), &file) == 0 && S_ISREG(file.st_mode) && file.st_uid == ::geteuid() &&
         file.st_size == off_t{kMemoryBytes};
}

// Opened by O_PATH first, which does nothing to whatever the peer has put there.
Descriptor open_memory(const Offer& offer) noexcept {
  Text path{};
  std::snprintf(path.data(), path.size(), "/proc/%d/fd/%d", offer.process, offer.descriptor);
  const Descriptor place(::open(path.data(), O_PATH | O_CLOEXEC));
  if (place.get() < 0 || !is_memory(place, offer.number)) return {};
  std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", place.get());
  Descriptor memory(::open(path.data(), O_RDWR | O_CLOEXEC));
  if (!is_spare(memory)) return {};
  // A file that somebody has given such a name has no seals.
  const int seals = ::fcntl(memory.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) return {};
  return memory;
}

}  // namespace

OfferedMemory offer_memory() {
  OfferedMemory offered;
  Number number{};
  Text text{};
  std::snprintf(text.data(), text.size(), "%s", kNoOffer.data());
  if (::getrandom(number.data(), sizeof number, GRND_NONBLOCK) == ssize_t{sizeof number}) {
    offered.memory = make_memory(number);
  }
  if (offered.memory.get() >= 0) {
    std::snprintf(text.data(), text.size(), kOfferText, kNoOffer.data(), ::getpid(),
                  offered.memory.get(), number[0], number[1]);
  }
  offered.frame = text.data();
  return offered;
}

Descriptor accept_memory(std::string_view frame) noexcept {
  Offer offer;
  return parse(frame, offer) ? open_memory(offer) : Descriptor();
}

bool PeerLane::map(const Descriptor& memory, std::uint32_t lane) noexcept {
  if (mapped()) return true;
  if (memory.get() < 0) return false;
  void* const place = ::mmap(nullptr, kLaneBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(),
                             off_t{kLaneBytes} * lane);
  if (place == MAP_FAILED) return false;
  head_ = static_cast<Head*>(place);
  area_ = static_cast<std::byte*>(place) + kHead;
  return true;
}

void PeerLane::unmap() noexcept {
  if (mapped()) ::munmap(head_, kLaneBytes);
  head_ = nullptr;
  area_ = nullptr;
}

}  // namespace millrace::runtime
