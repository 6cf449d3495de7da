// Forked children of a server's own process: proxies of its objects that they inherit.
//
// Such a proxy is the object itself, held but not counted; the child calls it at the server
// (manager_proxy.hpp). So that it is there when the child first does, a fork makes a pipe for each
// server whose objects have proxies here, whose writing end only the child keeps: until its other
// end is hung up on, when the child and all that it forked have ended, the server's watch holds
// the objects. Nobody is asked or waited for in fork(), and a child that dies at any instant needs
// to say nothing. A server whose threads do not serve lets go when they do, or when it ends.
//
// Lost: a session of the child's, as with servers elsewhere (fork() would wait for the server,
// whose threads may not serve just then).
#pragma once

#include <memory>

namespace millrace::runtime {

class SharedObject;

/// While it exists its object is held for each child that is forked. Any thread.
class Heirloom {
 public:
  explicit Heirloom(std::shared_ptr<SharedObject> object);
  Heirloom(const Heirloom&) = delete;
  Heirloom& operator=(const Heirloom&) = delete;
  ~Heirloom();

 private:
  friend struct ForkedHeirs;
  const std::shared_ptr<SharedObject> object_;
  Heirloom* next_ = nullptr;  // under the lock of all
  Heirloom** place_ = nullptr;
};

}  // namespace millrace::runtime
