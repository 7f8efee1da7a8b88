// dE/d(vectors) of the neighbors of an atom: of radial terms, then those of angular terms are added. A neighbor belongs
// to one thread, or to threads whose sums are added in their order, so that results are the same every time.
#pragma once

#include "gradient_rows.h"
#include "near.h"

// dE/dr of the radial terms of neighbor k.
DEVICE number radial_slope(const AevArguments& a, const Constants& c, number r, int kind, const real* g) {
    number f, df, slope = number_of(0);
    cutoff(c.eps, r, c.Rcr, f, df);
    g += a.radial_column[kind];
    for (int i = 0; i < N_ETAR; i++)
        for (int s = 0; s < N_SHFR; s++) {
            const number offset = r + -c.ShfR[s];
            const number term = exp_of(offset * offset * -c.EtaR[i]);
            slope = slope + term * (df + offset * f * (-2 * c.EtaR[i])) * ((real)0.25 * g[i * N_SHFR + s]);
        }
    return slope;
}

// A thread for each neighbor.
DEVICE void radial_backward(const AevArguments& a, const Constants& c, const Pairs& p, const real* g, real* out) {
    for (int k = threadIdx.x; k < p.count; k += THREADS) {
        number x, y, z;
        vector_of(p, k, x, y, z);
        const number r = sqrt_of(x * x + y * y + z * z);
        number slope = number_of(0);
        if (value_of(r) < c.Rcr) slope = radial_slope(a, c, r, p.kinds[k], g) * inverse(r);
        out[3 * k] = result_of(slope * x);
        out[3 * k + 1] = result_of(slope * y);
        out[3 * k + 2] = result_of(slope * z);
    }
}

// dE/d(unit vector), dE/dr and dE/df of one neighbor.
struct Slopes {
    number x, y, z, r, f;
};

// What the triple of neighbors j and k adds to those of j.
DEVICE void add_triple(const Constants& c, const Near& near, int j, int k, const real* g, Slopes& to) {
    const number x = dot(near, j, k) * (real)0.95, y = sqrt_of(x * x * (real)-1 + (real)1);
    const number mean = (near.r[j] + near.r[k]) * (real)0.5;
    const number slope = x * inverse(y) * (real)-1;  // dy/dx
    number d_cosine = number_of(0), d_mean = number_of(0), d_both = number_of(0);
    UNROLL for (int q = 0; q < N_ZETA; q++) {
        number power[N_SHFZ], d_power[N_SHFZ];
        UNROLL for (int z = 0; z < N_SHFZ; z++) {
            powers(half_angle(c, x, y, z), c.zeta[q], power[z], d_power[z]);
            d_power[z] = d_power[z] * (slope * c.half_sine[z] + c.half_cosine[z]);
        }
        UNROLL for (int i = 0; i < N_ETAA; i++)
            UNROLL for (int s = 0; s < N_SHFA; s++) {
                real h[N_SHFZ];
                load_row(g + ((i * N_ZETA + q) * N_SHFA + s) * N_SHFZ, h);
                number sum = number_of(0), d_sum = number_of(0);
                UNROLL for (int z = 0; z < N_SHFZ; z++) {
                    sum = sum + power[z] * h[z];
                    d_sum = d_sum + d_power[z] * h[z];
                }
                const number offset = mean + -c.ShfA[s];
                const number factor = exp_of(offset * offset * -c.EtaA[i]);
                d_cosine = d_cosine + factor * d_sum * c.zeta[q].value;
                sum = factor * sum;
                d_both = d_both + sum;
                d_mean = d_mean + offset * sum * (-2 * c.EtaA[i]);
            }
    }
    const number fk = near.f[k] * (real)2, both = near.f[j] * fk;
    d_cosine = d_cosine * both * (real)0.95;
    to.x = to.x + d_cosine * near.ux[k];
    to.y = to.y + d_cosine * near.uy[k];
    to.z = to.z + d_cosine * near.uz[k];
    to.r = to.r + d_mean * both * (real)0.5;
    to.f = to.f + d_both * fk;
}

DEVICE void add_gradient(real* to, const Slopes& s, const Near& near, int j) {
    const number ux = near.ux[j], uy = near.uy[j], uz = near.uz[j], over = inverse(near.r[j]);
    const number along = s.r + s.f * near.df[j] - (s.x * ux + s.y * uy + s.z * uz) * over;
    to[0] += result_of(ux * along + s.x * over);
    to[1] += result_of(uy * along + s.y * over);
    to[2] += result_of(uz * along + s.z * over);
}

// Threads for each neighbor j, as many as there are for all; each takes every n-th neighbor k.
DEVICE void angular_backward(const AevArguments& a, const Constants& c, const Near& near, const real* g,
                             Slopes* partial, real* out) {
    const int E = (int)a.num_species, t = threadIdx.x;
    for (int j0 = 0; j0 < near.count; j0 += THREADS) {
        const int here = min(near.count - j0, THREADS), slices = THREADS / here;
        const int j = j0 + t % here, slice = t / here;
        const number zero = number_of(0);
        Slopes sum = {zero, zero, zero, zero, zero};
        if (slice < slices) {
            const int mine = near.kind[j];
            for (int k = slice; k < near.count; k += slices) {
                const int other = near.kind[k];
                const int column = a.angular_column[min(mine, other) * E + max(mine, other)];
                if (k != j) add_triple(c, near, j, k, g + place_of(a, column), sum);
            }
        }
        partial[t] = sum;
        __syncthreads();
        if (t < here) {
            for (int s = 1; s < slices; s++) {
                const Slopes& more = partial[s * here + t];
                sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.r + more.r, sum.f + more.f};
            }
            add_gradient(out + 3 * near.index[j], sum, near, j);
        }
        __syncthreads();
    }
}
