#pragma once
#include <node_api.h>

napi_value ResizeNormaliseAsync(napi_env env, napi_callback_info info);
// Whether the CPU has the instructions of the wide path.
napi_value HasWideKernel(napi_env env, napi_callback_info info);
