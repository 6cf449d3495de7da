#include "runtime/managers/manager_link.hpp"

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <utility>

#include "runtime/base/own_pid.hpp"
#include "runtime/base/random.hpp"
#include "runtime/channels/client.hpp"
#include "runtime/channels/program_proof.hpp"
#include "runtime/managers/manager_wire.hpp"
#include "runtime/process/child.hpp"
#include "runtime/values/object_node.hpp"

namespace millrace::runtime {

namespace {

using Channel = std::shared_ptr<ManagerChannel>;

std::uint64_t random_number() {
  std::uint64_t number = 0;
  while (number == 0) fill_random(&number, sizeof number);
  return number;
}

// How long a fork waits for a server that does not answer, at each step.
constexpr std::chrono::seconds kForkWait{1};

// How often connections that are too many are looked at: threads that go on calling open them anew.
constexpr std::chrono::milliseconds kThinAgain{100};

// This thread's connections, by link. They end with the thread.
struct ThreadChannels {
  std::unordered_map<std::uint64_t, Channel> by_link;
  ~ThreadChannels();
};
thread_local bool g_thread_ended = false;  // outlives g_channels
thread_local ThreadChannels g_channels;
ThreadChannels::~ThreadChannels() {
  g_thread_ended = true;
  for (auto& [serial, channel] : by_link) channel->close();
}

// CPython's Namespace() takes its attributes as keywords; a C++ caller has them in a dict.
Object pythons_request(const Object& request) {
  const Object arguments = request[2];
  if (request[1] != Object("create") || arguments.size() != 2 || !arguments[1].is<Dict>() ||
      arguments[0] != Object("Namespace")) {
    return request;
  }
  return Object(Tuple{request[0], request[1], Object(Tuple{arguments[0]}), arguments[1]});
}

}  // namespace

std::mutex& links_mutex() {
  static auto& mutex = *new std::mutex;
  return mutex;
}
std::vector<ManagerLink*>& links() {
  static auto& all = *new std::vector<ManagerLink*>;
  return all;
}

// fork(), as all links see it.
struct ForkedLinks {
  static void before() noexcept {
    std::vector<std::shared_ptr<ManagerLink>> all;
    {
      const std::scoped_lock guard(links_mutex());
      for (ManagerLink* const each : links()) {
        if (!each->references_.empty()) all.push_back(each->weak_from_this().lock());
      }
    }
    for (const auto& each : all) {
      if (each != nullptr && !each->ended_.load(std::memory_order_relaxed)) ask(*each);
    }
    all.clear();
    links_mutex().lock();
  }
  static void in_parent() noexcept {
    std::vector<Channel> childs;
    for (ManagerLink* const each : links()) childs.push_back(std::move(each->for_child_));
    links_mutex().unlock();
  }
  static void in_child() noexcept {
    std::vector<Channel> parents;
    std::vector<std::shared_ptr<ManagerLink>> kept;  // for what the parent tells
    for (ManagerLink* const each : links()) {
      kept.push_back(std::move(each->kept_));
      for (const auto& channel : each->channels_) {
        if (Channel open = channel.lock()) parents.push_back(std::move(open));
      }
      each->channels_.clear();
      // The parent tells the server of parcels. Of what it still has of its own the child has as
      // many, if the server has copied them.
      const bool copied = each->for_child_ != nullptr;
      std::erase_if(each->late_, [&](const auto& late) { return !copied || late.maker != 0; });
      kept.push_back(each->stay_while_late());
      parents.push_back(std::exchange(each->session_, std::move(each->for_child_)));
      each->client_ = each->child_ != 0 ? each->child_ : random_number();
      each->child_ = 0;
      if (each->session_ != nullptr) each->channels_.push_back(each->session_);
    }
    links_mutex().unlock();
    for (const Channel& channel : parents) {
      if (channel == nullptr) continue;
      channel->close();
      channel->forget_line();
    }
    if (!g_thread_ended) g_channels.by_link.clear();
  }

 private:
  // A server of CPython's is told of each reference by itself.
  static void ask(ManagerLink& link) noexcept {
    try {
      const std::uint64_t child = random_number();
      Channel channel = link.open(child, link.client_, kForkWait);
      std::vector<std::string> ids;
      {
        const std::scoped_lock guard(links_mutex());
        if (channel->peer() != ManagerChannel::Peer::python) {
          link.child_ = child;
          link.for_child_ = std::move(channel);
          return;
        }
        for (const auto& [id, count] : link.references_) ids.insert(ids.end(), count, id);
      }
      for (const std::string& id : ids) {
        const Object request = manager_request({}, "incref", {Object(id)});
        returned(ManagerChannel(link.dial(kForkWait)).exchange(request, nullptr, kForkWait));
      }
    } catch (...) {
      // The server has ended, and the child's proxies will say so; or it was stopped, and the child
      // holds nothing: what its proxies call lives as long as somebody else has it. A server that
      // goes on finds the channel closed, by which nothing is kept.
      static_cast<void>(0);
    }
  }
};

ManagerLink::ManagerLink(Target target)
    : target_(std::move(target)), serial_(random_number()), client_(random_number()) {
  static const int watched =
      ::pthread_atfork(&ForkedLinks::before, &ForkedLinks::in_parent, &ForkedLinks::in_child);
  if (watched != 0) throw std::system_error(watched, std::generic_category(), "pthread_atfork");
  const std::scoped_lock guard(links_mutex());
  links().push_back(this);
}

ManagerLink::~ManagerLink() {
  {
    const std::scoped_lock guard(links_mutex());
    std::erase(links(), this);
  }
  for (const auto& each : channels_) {
    if (const Channel open = each.lock()) open->close();
  }
  if (!g_thread_ended) g_channels.by_link.erase(serial_);
}

std::shared_ptr<ManagerLink> ManagerLink::to(const Target& target) {
  static_cast<void>(links_mutex());
  std::vector<std::shared_ptr<ManagerLink>> others;  // let go of behind the lock
  {
    const std::scoped_lock guard(links_mutex());
    for (ManagerLink* const each : links()) {
      auto alive = each->weak_from_this().lock();
      if (alive == nullptr) continue;
      if (each->late_keeps_ != nullptr && each->session_ != nullptr && each->session_->hung_up()) {
        each->late_.clear();  // the server has ended
        each->session_.reset();
        others.push_back(each->stay_while_late());
      }
      if (each->target_.address == target.address && each->target_.authkey == target.authkey &&
          !each->ended_.load(std::memory_order_relaxed)) {
        return alive;
      }
      others.push_back(std::move(alive));
    }
  }
  return std::make_shared<ManagerLink>(target);
}

Connection ManagerLink::dial(Timeout limit) const {
  connection::ClientOptions options;
  options.authkey = target_.authkey;
  options.legacy_md5 = target_.legacy_md5;
  return client_within(limit, target_.address, options);
}

Channel ManagerLink::open(std::uint64_t client, std::uint64_t parent, Timeout limit) {
  auto channel = std::make_shared<ManagerChannel>(dial(limit));
  const std::string ends = ends_seen_by_client(channel->fileno());
  const ManagerHello hello{program_proof("client", ends), client, parent, own_pid()};
  const Object reply = returned(channel->exchange(
      manager_request({}, "accept_connection", {Object(text_of_hello(process_name(), hello))}),
      nullptr, limit));
  const std::optional<std::string> proof = proof_in_reply(reply);
  if (!proof) {
    channel->peer(ManagerChannel::Peer::python);
  } else {
    const bool ours = proves_program(*proof, "server", ends);
    channel->peer(ours ? ManagerChannel::Peer::own_program : ManagerChannel::Peer::millrace);
    if (ours) channel->open_line(limit);
  }
  return channel;
}

// The session, made on first use; of a server of CPython's the channel by which that is known.
Channel ManagerLink::session(Timeout limit) {
  std::uint64_t client = 0;
  {
    const std::scoped_lock guard(links_mutex());
    if (session_ != nullptr && !session_->broken()) return session_;
    client = client_;
  }
  Channel fresh = open(client, 0, limit);
  const std::scoped_lock guard(links_mutex());
  if (session_ == nullptr || session_->broken()) {
    session_ = std::move(fresh);
    channels_.push_back(session_);
  }
  return session_;
}

Object ManagerLink::call_server(const char* function, std::vector<Object> arguments) {
  const Channel channel = session();
  const Object request = manager_request({}, function, std::move(arguments));
  if (channel->peer() == ManagerChannel::Peer::python) {
    tell_late(nullptr);
    return returned(ManagerChannel(dial()).exchange(pythons_request(request)));
  }
  ManagerRequest encoded(*channel, request);  // what it refers to may ask this server
  const std::scoped_lock guard(channel->mutex);
  tell_late(channel.get());
  return returned(channel->exchange(encoded));
}

// In use.
Channel ManagerLink::thread_channel() {
  if (g_thread_ended) {  // static destructors of the main thread
    Channel shared = session();
    shared->use();
    return shared;
  }
  auto& mine = g_channels.by_link;
  if (const auto known = mine.find(serial_); known != mine.end()) {
    if (!known->second->broken() && known->second->use()) return known->second;
    mine.erase(known);
  }
  static_cast<void>(session());  // first: it keeps the references
  while (superfluous(kThreadChannels) != nullptr) static_cast<void>(0);
  Channel fresh = open(client_, 0);
  fresh->use();
  {
    const std::scoped_lock guard(links_mutex());
    channels_.push_back(fresh);
    crowd_.store(channels_.size() > kThreadChannels, std::memory_order_relaxed);  // a hint
  }
  mine.emplace(serial_, fresh);
  return fresh;
}

// Takes one away from a thread, the oldest first, when there are `limit`; null when that cannot be.
Channel ManagerLink::superfluous(std::size_t limit) {
  const std::scoped_lock guard(links_mutex());
  std::erase_if(channels_, [](const auto& each) { return each.expired(); });
  if (channels_.size() < limit) return nullptr;
  for (auto each = channels_.begin(); each != channels_.end(); ++each) {
    Channel channel = each->lock();
    if (channel == nullptr || channel == session_ || !channel->take_away()) continue;
    channels_.erase(each);
    return channel;
  }
  return nullptr;
}

// In front of a call, while there are too many: takes those that have become idle.
void ManagerLink::thin_out() noexcept {
  {
    const std::scoped_lock guard(links_mutex());
    const auto now = Timeout::Clock::now();
    if (now < thin_again_) return;
    thin_again_ = now + kThinAgain;
  }
  while (superfluous(kThreadChannels + 1) != nullptr) static_cast<void>(0);
  const std::scoped_lock guard(links_mutex());
  crowd_.store(channels_.size() > kThreadChannels, std::memory_order_relaxed);  // a hint
}

ManagerReply ManagerLink::call_object(const std::string& id, std::string_view method,
                                      std::vector<Object> arguments) {
  if (ended_.load(std::memory_order_relaxed)) {  // a hint: the server would not answer
    throw std::system_error(EPIPE, std::generic_category(), "the manager has been shut down");
  }
  const Channel channel = thread_channel();
  if (crowd_.load(std::memory_order_relaxed)) thin_out();  // a hint
  const Object request = manager_request(Object(id), method, std::move(arguments));
  struct Used {
    ManagerChannel& channel;
    ~Used() { channel.used(); }
  } const used{*channel};
  try {
    ManagerReply reply = channel->exchange(request, this);
    channel->note(id, method, reply);
    return reply;
  } catch (...) {
    if (channel->broken()) drop(channel);
    throw;
  }
}

void ManagerLink::drop(const Channel& channel) noexcept {
  channel->close();
  if (!g_thread_ended) g_channels.by_link.erase(serial_);
}

void ManagerLink::adopt(const std::string& id) {
  const std::scoped_lock guard(links_mutex());
  ++references_[id];
}

void ManagerLink::incref(const std::string& id) {
  call_server("incref", {Object(id)});
  adopt(id);
}

void ManagerLink::decref(const std::string& id) noexcept {
  bool last = false;
  {
    const std::scoped_lock guard(links_mutex());
    const auto known = references_.find(id);
    if (known == references_.end()) return;
    if (--known->second == 0) references_.erase(known);
    last = references_.empty();
  }
  if (ended_.load(std::memory_order_relaxed)) return;  // a hint: nobody would answer
  give_back(id, 0);
  if (!last || g_thread_ended) return;
  // The process has no more references: this thread's connection goes too, as in CPython.
  const auto mine = g_channels.by_link.find(serial_);
  if (mine != g_channels.by_link.end()) drop(Channel(mine->second));
}

void ManagerLink::shut_down() noexcept {
  ended_.store(true, std::memory_order_relaxed);  // a hint to those who would call
  std::vector<Channel> open;
  std::shared_ptr<ManagerLink> kept;
  std::shared_ptr<ManagerLink> late;
  {
    const std::scoped_lock guard(links_mutex());
    kept = std::move(kept_);
    late_.clear();
    late = stay_while_late();
    for (const auto& each : channels_) {
      if (Channel channel = each.lock()) open.push_back(std::move(channel));
    }
    channels_.clear();
    session_.reset();
  }
  for (const Channel& each : open) each->close();
  if (!g_thread_ended) g_channels.by_link.erase(serial_);
}

}  // namespace millrace::runtime
