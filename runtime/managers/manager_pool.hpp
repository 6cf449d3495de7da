// The Pool of a manager: G22.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/managers/manager_referent.hpp"

namespace millrace::runtime {

std::shared_ptr<Referent> make_pool_referent(ManagerCall& call);
std::vector<std::string> pool_method_names();
std::map<std::string, std::string> pool_method_types();

}  // namespace millrace::runtime
