/* A CUDA driver that writes down what it is asked to do, for tests without a GPU: see test_cuda_runtime.py. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define LIMIT 65536
static char text[LIMIT];
static int used, depth, bound, failing;
static char failing_name[64];

static void note(const char* format, ...) {
    va_list list;
    va_start(list, format);
    used += vsnprintf(text + used, LIMIT - used, format, list);
    va_end(list);
    used += snprintf(text + used, LIMIT - used, "\n");
}
static int result(const char* name) { return strcmp(name, failing_name) ? 0 : failing; }

/* Of the tests: what was noted since the last call; the function that fails from now on, and its error. */
const char* fake_log(void) {
    static char copy[LIMIT];
    memcpy(copy, text, LIMIT);
    used = 0;
    text[0] = 0;
    return copy;
}
void fake_failure(const char* name, int code) {
    snprintf(failing_name, sizeof failing_name, "%s", name);
    failing = code;
}
void fake_context(int there) { bound = there; }
int fake_depth(void) { return depth; }

int cuInit(unsigned flags) { return flags ? 1 : result("cuInit"); }
int cuDriverGetVersion(int* version) { return *version = 12040, result("cuDriverGetVersion"); }
int cuDeviceGet(int* device, int index) { return *device = 100 + index, result("cuDeviceGet"); }
int cuDeviceGetAttribute(int* value, int which, int device) {
    if (device < 100) return 101;
    *value = which == 16 ? 132 : which == 75 ? 9 : which == 76 ? 0 : which == 97 ? 232448 : -1;
    return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = (void*)(uintptr_t)(0x7fff00000000 + device);
    return result("cuDevicePrimaryCtxRetain");
}
int cuCtxPushCurrent_v2(void* context) { return note("push %p", context), depth++, 0; }
int cuCtxPopCurrent_v2(void** context) { return *context = 0, note("pop"), depth--, 0; }
int cuCtxSetCurrent(void* context) { return note("bind %p", context), bound = 1, 0; }
int cuModuleLoadData(void** module, const void* image) {
    if (!depth) return 201;
    note("load %s", (const char*)image);
    *module = (void*)(uintptr_t)0x7ffe00000001;
    return result("cuModuleLoadData");
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    if (!depth || module != (void*)(uintptr_t)0x7ffe00000001) return 201;
    note("function %s", name);
    *function = (void*)(uintptr_t)0x7ffd00000002;
    return result("cuModuleGetFunction");
}
int cuFuncLoad(void* function) { return note("ready %p", function), 0; }
int cuFuncGetAttribute(int* value, int which, void* function) {
    if (function != (void*)(uintptr_t)0x7ffd00000002) return 400;
    *value = which == 0 ? 128 : which == 1 ? 1024 : which == 3 ? 16 : which == 4 ? 40 : -1;
    return 0;
}
int cuFuncSetAttribute(void* function, int which, int value) {
    return note("set %p %d %d", function, which, value), 0;
}
/* The structure that a kernel takes is 32 bytes here: a pointer, an integer, a double, an integer. */
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
    const struct {
        void* out;
        int64_t n;
        double first;
        int64_t places;
    }* a = parameters[0];
    if (!depth && !bound) return 201;
    note("launch %p grid %u %u %u threads %u %u %u shared %u stream %p extra %d: %p %lld %g %lld", function, x, y, z,
         tx, ty, tz, shared, stream, extra != 0, a->out, (long long)a->n, a->first, (long long)a->places);
    return result("cuLaunchKernel");
}
int cuGetErrorName(int code, const char** name) {
    *name = code == 201 ? "CUDA_ERROR_INVALID_CONTEXT" : code == 1 ? "CUDA_ERROR_INVALID_VALUE" : 0;
    return *name ? 0 : 1;
}
int cuGetErrorString(int code, const char** meaning) {
    *meaning = code == 201 ? "invalid device context" : code == 1 ? "invalid argument" : 0;
    return *meaning ? 0 : 1;
}
