// The lattice of a molecule, and the bins that its atoms are sorted into.
#pragma once

#include "common.h"

#define MOST_IMAGES 1e6   // of a cell, that the cutoff reaches
#define MOST_COPIES 1e9   // of atoms in these, so that they can be counted
#define MOST_CELLS 1e8    // between an atom and the cell, so that shifts are integers of 32 bits
// Bins reach this much farther than the cutoff, for positions whose last digits are lost far outside of the cell.
#define MARGIN 1e-7

struct Lattice {
    double row[3][3];            // of the cell; unit vectors at right angles for axes that do not repeat
    double inverse[3][3];        // fractional = position . inverse
    double height[3];            // between opposite faces
    double low[3], per_unit[3];  // bin = (fractional - low) * per_unit
    double origin[3];            // of the positions in single precision
    double loose;                // square that no pair within the cutoff exceeds in single precision
    int pbc[3], bins[3], reach[3];
    int fault;  // 0, or why the molecule is not searched
};
enum { IS_NOT_FINITE = 1, IS_SINGULAR = 2, HAS_TOO_MANY_IMAGES = 3 };
static_assert(sizeof(Lattice) == 36 * 8, "search.py reserves 36 numbers");

DEVICE bool is_finite(double x) { return fabs(x) <= 1.7976931348623157e308; }
DEVICE double within(double x, double low, double high) { return x > low ? (x < high ? x : high) : low; }  // NaN: low
DEVICE int floor_ratio(int p, int q) { return p >= 0 ? p / q : -((q - 1 - p) / q); }
DEVICE double dot(const double* p, const double* q) { return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]; }
DEVICE void cross(const double* p, const double* q, double* r) {
    r[0] = p[1] * q[2] - p[2] * q[1];
    r[1] = p[2] * q[0] - p[0] * q[2];
    r[2] = p[0] * q[1] - p[1] * q[0];
}

// Unit vector at right angles to p and q, either or both of which may be zero (lattice.py, _unit_normal).
static __device__ void unit_normal(const double* p, const double* q, double* r) {
    cross(p, q, r);
    if (dot(r, r) == 0) {
        const double* lone = dot(p, p) > 0 ? p : q;
        const double x = fabs(lone[0]), y = fabs(lone[1]), z = fabs(lone[2]);
        const int least = x <= y && x <= z ? 0 : y <= z ? 1 : 2;
        const double axis[3] = {least == 0 ? 1.0 : 0.0, least == 1 ? 1.0 : 0.0, least == 2 ? 1.0 : 0.0};
        cross(lone, axis, r);
        if (dot(r, r) == 0)
            for (int c = 0; c < 3; c++) r[c] = axis[c];
    }
    const double length = sqrt(dot(r, r));
    for (int c = 0; c < 3; c++) r[c] /= length;
}

// That of Cartesian axes, none of which repeats.
static __device__ void set_free(Lattice& l) {
    for (int p = 0; p < 3; p++) {
        l.pbc[p] = 0;
        l.height[p] = 1;
        for (int c = 0; c < 3; c++) l.row[p][c] = l.inverse[p][c] = p == c;
    }
}
// Rows, inverse and heights of a molecule with n atoms, as lattice.py has them; a lattice with a fault is free.
static __device__ void complete(Lattice& l, const double* cell, const unsigned char* pbc, double cutoff, i64 n) {
    l.fault = 0;
    set_free(l);
    if (!cell || !(pbc[0] || pbc[1] || pbc[2])) return;  // soon: small molecules wait for this
    for (int p = 0; p < 3; p++) {
        l.pbc[p] = pbc[p];
        for (int c = 0; c < 3; c++) {
            l.row[p][c] = l.pbc[p] ? cell[3 * p + c] : 0.0;
            if (!is_finite(l.row[p][c])) l.fault = IS_NOT_FINITE;
        }
    }
    double normal[3][3], length = 1, images = 1;
    for (int p = 0; p < 3; p++) {
        if (!l.pbc[p]) unit_normal(l.row[(p + 1) % 3], l.row[(p + 2) % 3], l.row[p]);
        length *= sqrt(dot(l.row[p], l.row[p]));
    }
    for (int p = 0; p < 3; p++) cross(l.row[(p + 1) % 3], l.row[(p + 2) % 3], normal[p]);
    const double determinant = dot(l.row[0], normal[0]);
    if (!l.fault && !(fabs(determinant) > 1e-8 * length)) l.fault = IS_SINGULAR;
    for (int p = 0; p < 3; p++) {
        for (int c = 0; c < 3; c++) l.inverse[c][p] = normal[p][c] / determinant;
        l.height[p] = fabs(determinant) / sqrt(dot(normal[p], normal[p]));
        if (l.pbc[p]) images *= 2 * ceil(cutoff / l.height[p]) + 3;
    }
    if (!l.fault && !(images <= MOST_IMAGES && images * n <= MOST_COPIES)) l.fault = HAS_TOO_MANY_IMAGES;
    if (l.fault) set_free(l);
}

// Bins, and how many of them the cutoff reaches, of a molecule between two corners in fractional coordinates.
DEVICE void divide(Lattice& l, const double* low, const double* high, double cutoff, i64 most_bins) {
    double span[3], size = 0;
    for (int p = 0; p < 3; p++) {
        l.low[p] = l.pbc[p] ? 0.0 : low[p];
        span[p] = l.pbc[p] ? 1.0 : high[p] - low[p];
        const double width = p < 2 ? cutoff : 0.25 * cutoff;
        l.bins[p] = (int)within(floor(span[p] * l.height[p] / width * (1 - 10 * MARGIN)), 1, 1e6);
    }
    while ((i64)l.bins[0] * l.bins[1] * l.bins[2] > most_bins) {
        const int widest = l.bins[0] >= l.bins[1] && l.bins[0] >= l.bins[2] ? 0 : l.bins[1] >= l.bins[2] ? 1 : 2;
        l.bins[widest] = (l.bins[widest] + 1) / 2;
    }
    for (int p = 0; p < 3; p++) {
        const double width = span[p] * l.height[p] / l.bins[p];
        const double reach = within(ceil(cutoff / width * (1 + MARGIN)), 0, 1e6);
        l.reach[p] = l.pbc[p] ? (int)reach : (int)within(reach, 0, l.bins[p] - 1);
        l.per_unit[p] = span[p] > 0 ? l.bins[p] / span[p] : 0.0;
        const double images = l.pbc[p] ? 2 * (l.reach[p] / l.bins[p]) + 3 : 1;
        size += images * span[p] * sqrt(dot(l.row[p], l.row[p]));
    }
    for (int c = 0; c < 3; c++)
        l.origin[c] = l.low[0] * l.row[0][c] + l.low[1] * l.row[1][c] + l.low[2] * l.row[2][c];
    const double loose = cutoff * (1 + 1e-6) + 1e-6 * size;
    l.loose = loose * loose;
}
