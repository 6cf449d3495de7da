// Managers: a server process that holds objects for others, and proxies of them, here or on other
// hosts, for CPython too. Python: multiprocessing.managers.
//
// The wire is CPython's manager protocol: a CPython BaseManager.connect() may use a server of this
// library and the reverse. Between processes of one program values travel in the program's own
// form: then arguments and results may be anything Serializable, and exceptions keep their type.
//
// What happens when a process dies between any two steps: a client's end drops its references and
// gives back what it held; the server's end is EOFError or std::system_error (EPIPE) in the calls
// that wait for it, and std::system_error (ECONNREFUSED, ENOENT) in later ones. A server ends with
// the process that started it.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <millrace/address.hpp>
#include <millrace/bytes.hpp>
#include <millrace/context.hpp>
#include <millrace/manager_action.hpp>
#include <millrace/manager_types.hpp>
#include <millrace/pool_proxy.hpp>
#include <millrace/proxies.hpp>
#include <millrace/target.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

/// The keyword arguments of a manager.
struct ManagerOptions {
  connection::Address address{};     ///< none: a private AF_UNIX one, made by start()
  std::optional<Bytes> authkey{};    ///< none: this process's
  const Context* context = nullptr;  ///< of any start method: the server is forked, see start()
  std::chrono::nanoseconds shutdown_timeout =
      std::chrono::seconds(1);  ///< until it is terminated, then killed
  bool legacy_md5 = true;       ///< false: peers before CPython 3.12 are refused
  /// How many connections the server serves at once: one of each process and one of each of its
  /// threads that calls. Who comes then gets a RemoteError that says so. Python: no limit.
  std::size_t max_connections = 4096;
  /// Bytes of one request as it travels; who sends a longer one is hung up on. Python: no limit.
  std::size_t max_request = std::size_t{1} << 30U;
};

namespace runtime {

struct ManagerState;
class ManagerService;

/// A registered type on its way to the library: how one is made of a call's arguments.
struct TypeRequest {
  std::string type_id;
  std::function<MadeThing(ManagerArguments)> make;
  std::shared_ptr<const MethodList> methods;
  std::string class_name;
  RegisterOptions options;
};

}  // namespace runtime

/// A server that this process runs itself. Move-only. Python: managers.Server, G04-G06.
class ManagerServer {
 public:
  /// Serves until a client calls shutdown(); blocks. Python: serve_forever, which exits instead.
  void serve_forever();
  /// Ends serve_forever(); any thread.
  void shutdown();
  /// Where it listens, from the beginning.
  [[nodiscard]] const connection::Address& address() const;

  ManagerServer(ManagerServer&&) noexcept;
  ManagerServer& operator=(ManagerServer&&) noexcept;
  ~ManagerServer();

 private:
  friend class BaseManager;
  explicit ManagerServer(std::unique_ptr<runtime::ManagerService> service);
  std::unique_ptr<runtime::ManagerService> service_;
};

/// Starts a server process, or connects to one, and makes objects in it. Move-only; its destructor
/// is shutdown(), in the process that started the server. Any thread may call create().
/// Python: BaseManager, G02-G12.
class BaseManager {
 public:
  /// Throws ValueError for an empty key, and limits of 0.
  explicit BaseManager(const ManagerOptions& options = {});
  BaseManager(BaseManager&&) noexcept;
  BaseManager& operator=(BaseManager&&) noexcept;
  BaseManager(const BaseManager&) = delete;
  BaseManager& operator=(const BaseManager&) = delete;
  virtual ~BaseManager();

  /// Objects of class T, made of arguments Args, with these methods: pointers to members, or
  /// callables that take T& first. Before start(). Several threads may be in one object at once,
  /// and two calls of one client need not come on the same thread: a lock that a thread owns must
  /// not be held from one call to the next. Python: register, G09.
  template <class T, class... Args>
  requires std::constructible_from<T, Args...>
  void register_type(std::string type_id, std::initializer_list<runtime::NamedMethod<T>> methods,
                     RegisterOptions options = {}) {
    add_type({std::move(type_id),
              [](runtime::ManagerArguments given) {
                std::shared_ptr<T> made;
                const auto make = [&made](Args... each) {
                  made = std::make_shared<T>(std::move(each)...);
                };
                runtime::call_with<std::tuple<Args...>, 0>(make, given);
                return runtime::MadeThing{std::move(made), {}};
              },
              runtime::MethodList::of<T>(methods), runtime::class_name_of(wire::type_name<T>()),
              std::move(options)});
  }
  /// Objects that f gives: a shared_ptr (the same one is one shared object for all), a value, or
  /// one of mp's handles; Python's own types need no list of methods.
  template <class F>
  requires wire::HasArguments<F>
  void register_callable(
      std::string type_id, F f,
      std::initializer_list<runtime::NamedMethod<runtime::referent_of<F>>> methods = {},
      RegisterOptions options = {}) {
    using T = runtime::referent_of<F>;
    add_type({std::move(type_id),
              [f](runtime::ManagerArguments given) {
                runtime::MadeThing made;
                const auto make = [&](auto&... each) { made = runtime::made_of(f(each...)); };
                runtime::call_with<wire::arguments_of<F>, 0>(make, given);
                return made;
              },
              runtime::MethodList::of<T>(methods), runtime::class_name_of(wire::type_name<T>()),
              std::move(options)});
  }

  /// Starts the server process and returns when it can be used. It is forked under every start
  /// method: it has the registered functions as they are. Throws ProcessError when it was
  /// started before or shut down; what the initializer throws, and std::system_error for the
  /// address, come out here. Python: G03.
  void start() { start_server(nullptr); }
  /// The same; the server first calls initializer(args...).
  template <class F, class... Args>
  requires runtime::Target<F, Args...>
  void start(F&& initializer, Args&&... args) {
    start_server(runtime::make_target(std::forward<F>(initializer), std::forward<Args>(args)...));
  }
  /// A server in this process. ProcessError after start(). A proxy of its objects that a forked
  /// child inherits holds the object, whatever this process drops, until that child and all that it
  /// forks have ended; one that is an argument under spawn or forkserver, or an item of a queue, as
  /// long as it is there itself.
  [[nodiscard]] ManagerServer get_server();
  /// Uses a server that runs at the address. Throws what connection::Client throws,
  /// AuthenticationError for another key. Python: G07.
  void connect();
  /// Ends the server that start() started: it is asked to, after the timeout terminated, then
  /// killed. Repeatable. AttributeError before start(). Python: G08.
  void shutdown();
  /// Waits for the server process. Nothing when there is none. Python: G11.
  void join(Timeout timeout = {});

  /// Where the server listens. Python: G10.
  [[nodiscard]] connection::Address address() const;
  [[nodiscard]] std::size_t number_of_objects() const;
  /// Python's text about each object: id, count, repr.
  [[nodiscard]] std::string debug_info() const;

  /// Makes an object of a registered type; AssertionError before start() or connect(), RemoteError
  /// for an unknown type and for whatever making it throws.
  template <class P = BaseProxy, class... A>
  requires std::derived_from<P, BaseProxy> P create(const std::string& type_id, A&&... arguments)
  const { return P(create_object(type_id, {runtime::to_argument(std::forward<A>(arguments))...})); }

 protected:
  /// With Python's types.
  struct WithPythonTypes {};
  BaseManager(const ManagerOptions& options, WithPythonTypes);

 private:
  void add_type(runtime::TypeRequest request);
  void start_server(std::unique_ptr<runtime::ProcessTarget> initializer);
  [[nodiscard]] runtime::ProxyRef create_object(const std::string& type_id,
                                                std::vector<Object> arguments) const;

  std::unique_ptr<runtime::ManagerState> state_;
};

/// A BaseManager with Python's types. Errors are those of Python's referents, as RemoteError
/// where making an object fails. Python: SyncManager, G13-G28.
class SyncManager : public BaseManager {
 public:
  explicit SyncManager(const ManagerOptions& options = {})
      : BaseManager(options, WithPythonTypes{}) {}

  [[nodiscard]] DictProxy dict() const { return create<DictProxy>("dict"); }
  [[nodiscard]] DictProxy dict(std::initializer_list<Dict::Item> items) const {
    return create<DictProxy>("dict", Dict(items));
  }
  [[nodiscard]] DictProxy dict(const Object& items) const {
    return create<DictProxy>("dict", items);
  }
  [[nodiscard]] ListProxy list() const { return create<ListProxy>("list"); }
  [[nodiscard]] ListProxy list(std::initializer_list<Object> items) const {
    return create<ListProxy>("list", List(items));
  }
  /// The elements of any range.
  template <runtime::RangeOfObjects R>
  [[nodiscard]] ListProxy list(R&& range) const {
    return create<ListProxy>("list", List(std::forward<R>(range)));
  }
  [[nodiscard]] ListProxy list(const Object& items) const {
    return create<ListProxy>("list", items);
  }
  [[nodiscard]] SetProxy set() const { return create<SetProxy>("set"); }
  [[nodiscard]] SetProxy set(std::initializer_list<Object> items) const {
    return create<SetProxy>("set", List(items));
  }
  [[nodiscard]] SetProxy set(const Object& items) const { return create<SetProxy>("set", items); }
  [[nodiscard]] NamespaceProxy Namespace() const { return create<NamespaceProxy>("Namespace"); }
  [[nodiscard]] NamespaceProxy Namespace(std::initializer_list<Dict::Item> attributes) const {
    return create<NamespaceProxy>("Namespace", Dict(attributes));
  }
  [[nodiscard]] AcquirerProxy Lock() const { return create<AcquirerProxy>("Lock"); }
  [[nodiscard]] AcquirerProxy RLock() const { return create<AcquirerProxy>("RLock"); }
  [[nodiscard]] AcquirerProxy Semaphore(int value = 1) const {
    return create<AcquirerProxy>("Semaphore", value);
  }
  [[nodiscard]] AcquirerProxy BoundedSemaphore(int value = 1) const {
    return create<AcquirerProxy>("BoundedSemaphore", value);
  }
  [[nodiscard]] ConditionProxy Condition() const { return create<ConditionProxy>("Condition"); }
  /// Of a Lock or RLock of this manager.
  [[nodiscard]] ConditionProxy Condition(const AcquirerProxy& lock) const {
    return create<ConditionProxy>("Condition", lock);
  }
  [[nodiscard]] EventProxy Event() const { return create<EventProxy>("Event"); }
  [[nodiscard]] BarrierProxy Barrier(int parties) const {
    return create<BarrierProxy>("Barrier", parties);
  }
  /// The action is called in the server.
  template <class F>
  requires Sendable<std::decay_t<F>>
  [[nodiscard]] BarrierProxy Barrier(int parties, F&& action, Timeout timeout = {}) const {
    return create<BarrierProxy>("Barrier", parties,
                                runtime::make_action(std::decay_t<F>(std::forward<F>(action))),
                                runtime::seconds_of(timeout));
  }
  [[nodiscard]] BarrierProxy Barrier(int parties, NoneType action, Timeout timeout = {}) const {
    return create<BarrierProxy>("Barrier", parties, action, runtime::seconds_of(timeout));
  }
  [[nodiscard]] QueueProxy Queue(int maxsize = 0) const {
    return create<QueueProxy>("Queue", maxsize);
  }
  [[nodiscard]] QueueProxy JoinableQueue(int maxsize = 0) const {
    return create<QueueProxy>("JoinableQueue", maxsize);
  }
  [[nodiscard]] ValueProxy Value(char typecode, const Object& value) const {
    return create<ValueProxy>("Value", typecode, value);
  }
  [[nodiscard]] ArrayProxy Array(char typecode, std::initializer_list<Object> elements) const {
    return create<ArrayProxy>("Array", typecode, List(elements));
  }
  template <runtime::RangeOfObjects R>
  [[nodiscard]] ArrayProxy Array(char typecode, R&& elements) const {
    return create<ArrayProxy>("Array", typecode, List(std::forward<R>(elements)));
  }
  [[nodiscard]] PoolProxy Pool() const { return create<PoolProxy>("Pool"); }
  [[nodiscard]] PoolProxy Pool(int processes) const { return create<PoolProxy>("Pool", processes); }
};

/// A started SyncManager, whose server is named SyncManager-N. Python: G01.
[[nodiscard]] SyncManager Manager();

}  // namespace millrace
