// Proxies: what stands for an object that a manager's server holds. Python: managers.BaseProxy.
//
// A proxy is a handle: a copy refers to the same shared object, calls are const, and it may be an
// argument, a capture, an item, a message, or an element of another shared object, where it stays
// alive. The object lives until the last proxy anywhere is gone, on its way or in a callable that
// waits to be called too; but one that nobody has taken yet is gone with the process that sent it,
// as in Python. Any thread may call; calls of several threads do not wait for each other.
//
// Every call throws what the method throws, with its type; RemoteError for a method that is not
// exposed and for what has no type here; EOFError or std::system_error when the server has ended.
#pragma once

#include <concepts>
#include <iosfwd>
#include <memory>
#include <millrace/address.hpp>
#include <millrace/handle.hpp>
#include <millrace/manager_values.hpp>
#include <millrace/object.hpp>
#include <millrace/type_key.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace {

class BaseProxy;

/// Which object of which server a proxy stands for. Python: managers.Token, G30.
struct Token {
  std::string type_id;          ///< the name under which its type is registered
  connection::Address address;  ///< of the server
  std::string id;               ///< of the object
  friend bool operator==(const Token&, const Token&) = default;
};

namespace runtime {

class ProxyState;
using ProxyRef = std::shared_ptr<ProxyState>;

/// What a proxy holds: in memory of the process's own the state that its copies here share, in the
/// arena (a callable's copy, a shared container) a parcel from which any process makes one.
class ProxyPlace {
 public:
  explicit ProxyPlace(ProxyRef state) noexcept : state_(std::move(state)) {}
  /// Out of the arena: what the server throws that is asked for one reference more.
  ProxyPlace(const ProxyPlace& other);
  // NOLINTNEXTLINE(performance-noexcept-move-constructor): out of the arena it is a copy
  ProxyPlace(ProxyPlace&& other);
  ProxyPlace& operator=(const ProxyPlace& other);
  // NOLINTNEXTLINE(performance-noexcept-move-constructor): as above
  ProxyPlace& operator=(ProxyPlace&& other);
  ~ProxyPlace();

  /// Null where it lies in the arena, or was moved from.
  [[nodiscard]] const ProxyRef& here() const noexcept { return state_; }
  /// Makes one in the arena usable. ValueError for one that was moved from.
  [[nodiscard]] ProxyRef state() const;
  /// Makes it usable in the arena. ValueError, too.
  [[nodiscard]] shm::ObjectRef parcel() const;

 private:
  void fill(const ProxyPlace& other);
  void take(ProxyPlace& other);
  void clear() noexcept;

  ProxyRef state_;
  shm::ObjectRef parcel_;
};

void encode_proxy(wire::Writer& out, const BaseProxy& proxy);
ProxyRef decode_proxy(wire::Reader& in);
/// The proxy in an Object, of whichever type. Throws TypeError when there is none.
ProxyRef proxy_in(const Object& value);
/// The same for a C++ type of this name, of a class of Python's: TypeError for a proxy of another.
ProxyRef proxy_as(const Object& value, const char* python_class, std::string_view type);
/// Makes handles of this type known to pickles. \param type as the compiler spells it.
bool declare_proxy(std::string_view type, const char* python_class, Object (*make)(ProxyRef state));

}  // namespace runtime

/// A proxy of any shared object, and the base of the others. Types of one's own derive from it:
///   struct MathsProxy : mp::BaseProxy {
///     using BaseProxy::BaseProxy;
///     int add(int a, int b) const { return call<int>("add", a, b); }
///   };
/// Python: BaseProxy, AutoProxy, X01-X11.
class BaseProxy {
 public:
  /// For the library: create() and results of calls make proxies.
  explicit BaseProxy(runtime::ProxyRef state) noexcept : place_(std::move(state)) {}

  /// Calls a method with any Serializable arguments and waits for its result: an Object, an R, or
  /// nothing for void; a proxy where the method's type says so. Python: _callmethod, X01.
  template <class R = Object, class... A>
  R call(std::string_view method, A&&... arguments) const {
    return result<R>(call_method(method, {runtime::to_argument(std::forward<A>(arguments))...}));
  }

  /// A copy of the object's value. Throws RemoteError for types that have none. Python: X02.
  [[nodiscard]] Object getvalue() const;
  [[nodiscard]] Token token() const;
  /// "<ListProxy object, typeid 'list' at 0x..>". Does not ask the server. Python: X03.
  [[nodiscard]] std::string repr() const;
  /// The object's own repr(). Python: X04.
  [[nodiscard]] std::string str() const;

  /// True for proxies of one object. Values are never compared. Python: X06.
  friend bool operator==(const BaseProxy& a, const BaseProxy& b) { return a.is(b); }
  /// Writes str().
  friend std::ostream& operator<<(std::ostream& out, const BaseProxy& proxy);

 protected:
  [[nodiscard]] Object call_method(std::string_view method, std::vector<Object> arguments) const;
  template <class R>
  static R result(Object&& value) {
    if constexpr (std::is_void_v<R>) {
      return;
    } else if constexpr (std::derived_from<R, BaseProxy>) {
      return R(runtime::proxy_in(value));
    } else {
      return runtime::from_argument<R>(value);
    }
  }

 private:
  friend struct ProxyAccess;
  [[nodiscard]] bool is(const BaseProxy& other) const;

  runtime::ProxyPlace place_;
};

namespace runtime {

/// The name of a proxy's class as Python knows it.
template <class P>
inline constexpr const char* kProxyClass = "AutoProxy";

template <class P>
inline const bool kProxyDeclared = declare_proxy(wire::type_key<P>(), kProxyClass<P>,
                                                 [](ProxyRef state) {
                                                   return Object(P(std::move(state)));
                                                 });

}  // namespace runtime

namespace wire {

/// Proxies of all types travel as a parcel, which keeps the object; the receiver is counted as
/// another holder.
template <std::derived_from<BaseProxy> P>
struct Custom<P> {
  static void encode(Writer& out, const P& proxy) {
    static_cast<void>(runtime::kProxyDeclared<P>);
    runtime::encode_proxy(out, proxy);
  }
  static P decode(Reader& in) { return P(runtime::decode_proxy(in)); }
};

}  // namespace wire

/// Object::as<P>(), which finds this by its argument: also where a proxy is held as another type. A
/// type of one's own is for all proxies that arrive as BaseProxy, and that for any.
template <class P>
requires std::derived_from<P, BaseProxy> P compound_of(const Object& from) {
  if (const void* const same = runtime::find_handle(from, wire::type_key<P>())) {
    return *static_cast<const P*>(same);
  }
  if constexpr (std::same_as<P, BaseProxy>) return P(runtime::proxy_in(from));
  return P(runtime::proxy_as(from, runtime::kProxyClass<P>, wire::type_name<P>()));
}

/// An element of a shared container, for the length of an expression: reading it and assigning to
/// it are calls.
class ProxyItem {
 public:
  /// The names of the methods that read and write it.
  struct Methods {
    const char* get;
    const char* set;
  };
  ProxyItem(const BaseProxy& container, Object key, Methods methods)
      : container_(container), key_(std::move(key)), methods_(methods) {}
  ProxyItem(const ProxyItem&) = delete;
  ~ProxyItem() = default;

  template <class T>
  requires(!std::same_as<std::remove_cvref_t<T>, ProxyItem>) const ProxyItem& operator=(
      T&& value) const {
    container_.call(methods_.set, key_, std::forward<T>(value));
    return *this;
  }
  const ProxyItem& operator=(const ProxyItem& other) const {
    container_.call(methods_.set, key_, other.get());
    return *this;
  }
  operator Object() const { return get(); }  // NOLINT(google-explicit-constructor): reads it
  [[nodiscard]] Object get() const { return container_.call(methods_.get, key_); }
  template <class T>
  T as() const {
    return container_.call<T>(methods_.get, key_);
  }
  template <class T>
  [[nodiscard]] bool is() const {
    return get().template is<T>();
  }
  Object operator[](const Object& key) const { return get()[key]; }
  [[nodiscard]] std::size_t size() const { return get().size(); }
  [[nodiscard]] std::string repr() const { return get().repr(); }
  friend bool operator==(const ProxyItem& item, const Object& value) { return item.get() == value; }
  friend std::ostream& operator<<(std::ostream& out, const ProxyItem& item) {
    return out << item.get();
  }

 private:
  BaseProxy container_;
  Object key_;
  Methods methods_;
};

}  // namespace millrace
