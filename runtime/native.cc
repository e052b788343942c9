// What Node does not offer, compiled by `minigpt4 setup` beside tfjs-node-gpu's addon:
//   exitNow(code)   ends the process at once. process.exit() waits for the worker thread, which may be many seconds
//                   deep in a TensorFlow step; after SIGTERM and a saved checkpoint nothing is left to wait for.
//   muteStderr(on)  points file descriptor 2 at /dev/null and back: TensorFlow prints banners while it loads that no
//                   setting of its own turns off.
//   resizeNormalise(job), hasWideKernel(): see preprocess.cc.
#include <fcntl.h>
#include <node_api.h>
#include <unistd.h>

#include "preprocess.h"

static napi_value ExitNow(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  int32_t code = 1;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  if (count == 1) napi_get_value_int32(env, argument, &code);
  _exit(code);
}

static int saved_stderr = -1;

static napi_value MuteStderr(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  bool on = false;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  if (count == 1) napi_get_value_bool(env, argument, &on);
  if (on && saved_stderr < 0) {
    int null_device = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null_device < 0) return nullptr;
    saved_stderr = fcntl(2, F_DUPFD_CLOEXEC, 3);
    if (saved_stderr >= 0) dup2(null_device, 2);
    close(null_device);
  } else if (!on && saved_stderr >= 0) {
    dup2(saved_stderr, 2);
    close(saved_stderr);
    saved_stderr = -1;
  }
  return nullptr;
}

static napi_value Init(napi_env env, napi_value exports) {
  const struct {
    const char* name;
    napi_callback function;
  } functions[] = {
      {"exitNow", ExitNow},
      {"muteStderr", MuteStderr},
      {"resizeNormalise", ResizeNormaliseAsync},
      {"hasWideKernel", HasWideKernel},
  };
  for (const auto& [name, function] : functions) {
    napi_value value;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    napi_set_named_property(env, exports, name, value);
  }
  return exports;
}

NAPI_MODULE(NODE_GYP_MODULE_NAME, Init)
