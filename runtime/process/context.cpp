#include <array>
#include <millrace/context.hpp>
#include <mutex>
#include <stdexcept>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/process/context_state.hpp"
#include "sched/quota.hpp"
#include "shm/immortal.hpp"

namespace millrace {

// The contexts there are, the default first.
struct Contexts {
  static constinit std::array<Context, 3> all;

  static Context* find(std::string_view method) noexcept {
    for (Context& context : all) {
      if (context.method_ == method) return &context;
    }
    return nullptr;
  }
};

constinit std::array<Context, 3> Contexts::all{
    {{"fork", "ForkProcess"}, {"spawn", "SpawnProcess"}, {"forkserver", "ForkServerProcess"}}};

namespace {

struct Settings {
  runtime::ForkMutex mutex{runtime::ForkMutex::Level::context};  // guards all below
  Context* fixed = nullptr;  // null: the default method has not been fixed
  std::string executable;
  std::vector<std::string> preload;
};

// Never destroyed: exit handlers may start processes.
Settings& settings() {
  static shm::Immortal<Settings> instance;
  return *instance;
}
[[maybe_unused]] const Settings& g_made_before_threads = settings();

}  // namespace

void Context::set_start_method(std::optional<std::string_view>, SetStartMethodOptions) const {
  throw ValueError("cannot set start method of concrete context");
}

std::vector<std::string> Context::get_all_start_methods() const {
  return millrace::get_all_start_methods();
}

Context& Context::get_context(std::string_view method) const {
  return millrace::get_context(method);
}

int Context::cpu_count() const { return millrace::cpu_count(); }

int Context::usable_cpu_count() const { return millrace::usable_cpu_count(); }

Context& get_context() {
  Settings& set = settings();
  const std::lock_guard guard(set.mutex);
  if (set.fixed == nullptr) set.fixed = &Contexts::all.front();
  return *set.fixed;
}

Context& get_context(std::string_view method) {
  if (Context* context = Contexts::find(method)) return *context;
  std::string there;
  for (const Context& context : Contexts::all) {
    there += (there.empty() ? " '" : ", '") + context.get_start_method() + "'";
  }
  throw ValueError("cannot find context for '" + std::string(method) + "'; there are" + there);
}

void set_start_method(std::optional<std::string_view> method, SetStartMethodOptions options) {
  Settings& set = settings();
  const std::lock_guard guard(set.mutex);
  if (set.fixed != nullptr && !options.force) {
    throw std::runtime_error("context has already been set");
  }
  if (method) {
    set.fixed = &get_context(*method);
  } else {
    set.fixed = options.force ? nullptr : &Contexts::all.front();
  }
}

std::string get_start_method() { return get_context().get_start_method(); }

std::optional<std::string> get_start_method(allow_none_t) {
  Settings& set = settings();
  const std::lock_guard guard(set.mutex);
  if (set.fixed == nullptr) return std::nullopt;
  return set.fixed->get_start_method();
}

std::vector<std::string> get_all_start_methods() {
  std::vector<std::string> methods;
  for (const Context& context : Contexts::all) methods.push_back(context.get_start_method());
  return methods;
}

int cpu_count() { return sched::cpu_count(); }

int usable_cpu_count() { return sched::usable_cpu_count(); }

void set_executable(std::string path) {
  Settings& set = settings();
  const std::lock_guard guard(set.mutex);
  set.executable = std::move(path);
}

void set_forkserver_preload(std::vector<std::string> libraries) {
  Settings& set = settings();
  const std::lock_guard guard(set.mutex);
  set.preload = std::move(libraries);
}

namespace runtime {

std::string fix_start_method() { return get_start_method(); }

void set_child_start_method(const std::string& method) {
  if (!method.empty()) set_start_method(method, {.force = true});
}

std::string method_of(const Context* context) {
  return context != nullptr ? context->get_start_method() : get_start_method();
}

std::string executable() {
  Settings& set = settings();
  const std::lock_guard guard(set.mutex);
  return set.executable;
}

std::vector<std::string> forkserver_preload() {
  Settings& set = settings();
  const std::lock_guard guard(set.mutex);
  return set.preload;
}

}  // namespace runtime
}  // namespace millrace
