// Growable aligned memory that keeps what it once took, so that repeated calls allocate nothing.
#pragma once

#include "pool.h"
#include "simd.h"

namespace ANIPOT_ISA {

using anipot::out_of_memory;

template <class X>
struct Buffer {
    X* data = nullptr;
    long capacity = 0;

    Buffer() {}
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { free(data); }

    X& operator[](long i) { return data[i]; }
    const X& operator[](long i) const { return data[i]; }

    // Room for n elements, and never a null pointer; what was there is lost. New memory is zero.
    X* resize(long n) {
        if (n > capacity || !data) {
            free(data);
            data = nullptr;
            capacity = 0;
            data = allocate(n + n / 8);
            capacity = n + n / 8;
        }
        return data;
    }
    // Room for n elements; the first `used` stay.
    X* grow(long n, long used) {
        if (n > capacity || !data) {
            X* larger_one = allocate(2 * n);
            if (used) memcpy((void*)larger_one, data, used * sizeof(X));
            free(data);
            data = larger_one;
            capacity = 2 * n;
        }
        return data;
    }

   private:
    static X* allocate(long n) {
        void* p = nullptr;
        size_t bytes = ((size_t)n * sizeof(X) + 127) / 64 * 64;  // a vector beyond the end may be read
        if (posix_memalign(&p, 64, bytes)) out_of_memory();
        memset(p, 0, bytes);
        return (X*)p;
    }
};

}  // namespace ANIPOT_ISA
