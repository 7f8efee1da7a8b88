// Activations and their derivatives. Numbers as in csrc/spec.h.
#pragma once

#include "units.h"

enum { NO_ACTIVATION, CELU, TANH, SILU, SHIFTED_SOFTPLUS, GAUSSIAN, GELU, GELU_TANH };

DEVICE real erfc_of(real x) { return sizeof(real) == 4 ? (real)erfcf((float)x) : (real)erfc((double)x); }

// y = f(x), d = f'(x), for a unit. NaN where x is NaN.
DEVICE void activate(int kind, real p, const Unit& in, Unit& y, Unit& d) {
    const real one = 1;
#define EACH(...) UNROLL for (int i = 0; i < V; i++) { const real x = in.v[i]; __VA_ARGS__ }
    switch (kind) {
        case CELU: {
            const real scale = one / p;
            EACH({
                const real e = exp_of(x * scale);
                y.v[i] = x > 0 ? x : p * (e - one);
                d.v[i] = x > 0 ? one : e;
            })
            return;
        }
        case TANH:
            EACH({
                y.v[i] = one - 2 / (exp_of(2 * x) + one);
                d.v[i] = one - y.v[i] * y.v[i];
            })
            return;
        case SILU:
            EACH({
                const real s = one / (exp_of(-x) + one);
                y.v[i] = x * s;
                d.v[i] = s + x * s * (one - s);
            })
            return;
        case SHIFTED_SOFTPLUS:
            EACH({
                const real e = exp_of(x > 0 ? -x : x);
                y.v[i] = (x > 0 ? x : 0) + log_of(e + one) - (real)0.69314718055994530942;
                d.v[i] = (x > 0 ? one : e) / (e + one);
            })
            return;
        case GAUSSIAN:
            EACH({
                y.v[i] = exp_of(-x * x);
                d.v[i] = -2 * x * y.v[i];
            })
            return;
        case GELU:  // x (1 + erf(x / sqrt(2))) / 2
            EACH({
                const real phi = (real)0.5 * erfc_of(x * (real)-0.70710678118654752440);
                y.v[i] = x * phi;
                d.v[i] = phi + x * exp_of(x * x * (real)-0.5) * (real)0.39894228040143267794;
            })
            return;
        case GELU_TANH:  // x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
            EACH({
                const real a = (real)(2 * 0.79788456080286535588);
                const real s = one / (exp_of(-a * (x + (real)0.044715 * x * x * x)) + one);
                y.v[i] = x * s;
                d.v[i] = s + x * s * (one - s) * a * (one + (real)(3 * 0.044715) * x * x);
            })
            return;
        default:
            EACH({
                y.v[i] = x;
                d.v[i] = one;
            })
    }
#undef EACH
}

// f'(x) from y = f(x), for those activations that have it (network_plan.py, _FROM_VALUE).
DEVICE real slope_of(int kind, real p, real y) {
    switch (kind) {
        case CELU: return y > 0 ? (real)1 : y / p + 1;
        case TANH: return 1 - y * y;
        case SHIFTED_SOFTPLUS: return 1 - (real)0.5 * exp_of(-y);
        default: return 1;
    }
}
