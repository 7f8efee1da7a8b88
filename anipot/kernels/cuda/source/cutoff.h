// The cutoff function of AEVs: the smooth one of order SMOOTH_CUTOFF, or with 0 that of cosines.
#pragma once

#include "numbers.h"

// f_c(r) and its derivative (representation/cutoffs.py).
DEVICE void cutoff(real eps, number r, real radius, number& f, number& df) {
#if SMOOTH_CUTOFF
    const number x = r * (1 / radius);
    number below = number_of(1);
    for (int i = 1; i < SMOOTH_CUTOFF; i++) below = below * x;
    const number q = at_least(below * x * (real)-1 + (real)1, eps);
    const number over = inverse(q);
    f = exp_of(over * (real)-1 + (real)1);
    df = below * over * over * f * (value_of(q) > eps ? -SMOOTH_CUTOFF / radius : (real)0);
#else
    number s, c;
    sincospi_of(r * (1 / radius), s, c);
    f = c * (real)0.5 + (real)0.5;
    df = s * ((real)(-0.5 * PI) / radius);
#endif
}
