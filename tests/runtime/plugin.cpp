// A shared library that function_test opens: PLUGIN_NUMBER tells one build of it from another.
extern "C" int plugin_function(int x);
extern "C" int plugin_function(int x) { return x + PLUGIN_NUMBER; }
