// resizeNormalise(job) of the addon: ResizeNormalise in one of libuv's threads, so that the main thread goes on.
//   job      { data: Uint8Array, width, height, layout, left, top, boxWidth, boxHeight, size, levels: Float32Array(768),
//            wide: boolean }, numbers whole; `data` must neither be changed nor transferred before the promise settles
//   returns  a promise of float32[3, size, size]
// A job that does not fit together throws at once and reads nothing: a wrong size here would be a wild pointer.
#include "preprocess.h"

#include <memory>
#include <new>
#include <string>

#include "resize.h"

namespace {

constexpr int kMaxSide = 65535;  // JPEG's limit, and a bound on the rows that are kept at a time
constexpr int kMaxSize = 4096;   // of an encoder's image
constexpr size_t kLevels = 3 * 256;

struct Job {
  Picture picture{};
  Box box{};
  int size = 0;
  const float* levels = nullptr;
  float* planes = nullptr;
  bool wide = false;
  bool out_of_memory = false;
  // The arrays are held until the work is done
  napi_ref data_ref = nullptr, levels_ref = nullptr, planes_ref = nullptr;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
};

napi_value Property(napi_env env, napi_value object, const char* name) {
  napi_value value = nullptr;
  return napi_get_named_property(env, object, name, &value) == napi_ok ? value : nullptr;
}

bool WholeNumber(napi_env env, napi_value object, const char* name, int low, int high, int* result) {
  napi_value value = Property(env, object, name);
  double number = 0;
  if (value == nullptr || napi_get_value_double(env, value, &number) != napi_ok) return false;
  if (!(number >= low && number <= high)) return false;
  *result = static_cast<int>(number);
  return *result == number;
}

bool TypedArray(napi_env env, napi_value value, napi_typedarray_type wanted, void** data, size_t* length) {
  bool is_array = false;
  napi_typedarray_type type;
  if (value == nullptr || napi_is_typedarray(env, value, &is_array) != napi_ok || !is_array) return false;
  return napi_get_typedarray_info(env, value, &type, length, data, nullptr, nullptr) == napi_ok && type == wanted;
}

// Names what does not fit; nullptr if all does. The job then points into the arrays of `object`.
const char* ReadJob(napi_env env, napi_value object, Job* job) {
  Picture& picture = job->picture;
  Box& box = job->box;
  int layout = 0;
  if (!WholeNumber(env, object, "width", 1, kMaxSide, &picture.width)) return "width";
  if (!WholeNumber(env, object, "height", 1, kMaxSide, &picture.height)) return "height";
  if (!WholeNumber(env, object, "layout", 0, 2, &layout)) return "layout";
  picture.layout = static_cast<Layout>(layout);
  if (!WholeNumber(env, object, "left", 0, picture.width - 1, &box.left)) return "left";
  if (!WholeNumber(env, object, "top", 0, picture.height - 1, &box.top)) return "top";
  if (!WholeNumber(env, object, "boxWidth", 1, picture.width - box.left, &box.width)) return "boxWidth";
  if (!WholeNumber(env, object, "boxHeight", 1, picture.height - box.top, &box.height)) return "boxHeight";
  if (!WholeNumber(env, object, "size", 1, kMaxSize, &job->size)) return "size";
  void* data = nullptr;
  size_t length = 0;
  if (!TypedArray(env, Property(env, object, "levels"), napi_float32_array, &data, &length) || length != kLevels)
    return "levels";
  job->levels = static_cast<const float*>(data);
  if (!TypedArray(env, Property(env, object, "data"), napi_uint8_array, &data, &length) ||
      length != static_cast<size_t>(picture.width) * picture.height * PixelBytes(picture.layout))
    return "data";
  picture.data = static_cast<const uint8_t*>(data);
  napi_value wide = Property(env, object, "wide");
  if (wide == nullptr || napi_get_value_bool(env, wide, &job->wide) != napi_ok) return "wide";
  job->wide = job->wide && HasAvx2();
  return nullptr;
}

// In one of libuv's threads: nothing of Node may be called here.
void Execute(napi_env, void* pointer) {
  Job* job = static_cast<Job*>(pointer);
  try {
    ResizeNormalise(job->picture, job->box, job->size, job->levels, job->planes, job->wide);
  } catch (const std::bad_alloc&) {
    job->out_of_memory = true;
  }
}

void Release(napi_env env, Job* job) {
  for (napi_ref reference : {job->data_ref, job->levels_ref, job->planes_ref})
    if (reference != nullptr) napi_delete_reference(env, reference);
  if (job->work != nullptr) napi_delete_async_work(env, job->work);
  delete job;
}

// On the thread that asked. Where that is being torn down the calls fail and only the memory is given back.
void Complete(napi_env env, napi_status status, void* pointer) {
  Job* job = static_cast<Job*>(pointer);
  napi_value planes = nullptr, message, error;
  if (status == napi_ok && !job->out_of_memory && napi_get_reference_value(env, job->planes_ref, &planes) == napi_ok) {
    napi_resolve_deferred(env, job->deferred, planes);
  } else if (napi_create_string_utf8(env, "resizeNormalise: out of memory, or stopped", NAPI_AUTO_LENGTH, &message) ==
                 napi_ok &&
             napi_create_error(env, nullptr, message, &error) == napi_ok) {
    napi_reject_deferred(env, job->deferred, error);
  }
  Release(env, job);
}

// Takes the job's arrays into keeping, makes the output and queues the work. False where Node fails.
bool Queue(napi_env env, napi_value object, Job* job, napi_value* promise) {
  napi_value buffer, planes, name;
  void* memory = nullptr;
  const size_t count = 3 * static_cast<size_t>(job->size) * job->size;
  if (napi_create_arraybuffer(env, count * sizeof(float), &memory, &buffer) != napi_ok) return false;
  if (napi_create_typedarray(env, napi_float32_array, count, buffer, 0, &planes) != napi_ok) return false;
  job->planes = static_cast<float*>(memory);
  return napi_create_reference(env, planes, 1, &job->planes_ref) == napi_ok &&
         napi_create_reference(env, Property(env, object, "data"), 1, &job->data_ref) == napi_ok &&
         napi_create_reference(env, Property(env, object, "levels"), 1, &job->levels_ref) == napi_ok &&
         napi_create_string_utf8(env, "minigpt4:resize", NAPI_AUTO_LENGTH, &name) == napi_ok &&
         napi_create_async_work(env, nullptr, name, Execute, Complete, job, &job->work) == napi_ok &&
         napi_create_promise(env, &job->deferred, promise) == napi_ok &&
         napi_queue_async_work(env, job->work) == napi_ok;
}

}  // namespace

napi_value ResizeNormaliseAsync(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value object = nullptr, promise = nullptr;
  napi_get_cb_info(env, info, &count, &object, nullptr, nullptr);
  auto job = std::make_unique<Job>();
  if (const char* wrong = ReadJob(env, object, job.get())) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    const std::string message = std::string("resizeNormalise: ") + wrong + " must fit the job's other numbers";
    if (!pending) napi_throw_range_error(env, nullptr, message.c_str());
    return nullptr;
  }
  if (!Queue(env, object, job.get(), &promise)) {
    Release(env, job.release());
    napi_throw_error(env, nullptr, "resizeNormalise: Node could not queue the work");
    return nullptr;
  }
  job.release();  // Complete deletes it
  return promise;
}

napi_value HasWideKernel(napi_env env, napi_callback_info) {
  napi_value result = nullptr;
  napi_get_boolean(env, HasAvx2(), &result);
  return result;
}
