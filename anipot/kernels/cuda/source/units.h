// Units of 16 bytes: what a thread reads or writes at once.
#pragma once

#include "common.h"

enum { V = 16 / sizeof(real) };  // numbers in a unit

struct __align__(16) Unit {
    real v[V];
};
DEVICE Unit load(const real* at) { return *(const Unit*)at; }
DEVICE void store(real* at, const Unit& x) { *(Unit*)at = x; }
