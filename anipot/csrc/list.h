// Neighbors of every atom, for padded batches of molecules with any cell and any periodic axes.
//
// Atoms are wrapped into the cell and copied to all the images that the cutoff reaches ("extended atoms"), which makes
// a tiny, skewed or partly periodic cell like any other. Extended atoms are sorted by element and bin, so that
// candidates come out sorted by element. Searched with a skin, a list serves later steps; it proves at each step that
// it may.
#pragma once

#include "memory.h"
#include "parallel.h"
#include "spec.h"

namespace ANIPOT_ISA {

struct Lattice {
    double row[3][3];      // of the cell; unit vectors at right angles for axes that do not repeat
    double inverse[3][3];  // fractional = position . inverse
    double height[3];
    bool pbc[3];
    double volume;  // of the cell as it was given
};

// Bins of one molecule over the extended atoms.
struct Grid {
    int bins[3];
    double low[3], per_unit[3];  // bin = (fractional - low) * per_unit
    long table;                  // where the E * bins + 1 beginnings of this molecule stand
    long cells() const { return (long)bins[0] * bins[1] * bins[2]; }
};

class List {
   public:
    List() {}
    List(const List&) = delete;
    ~List() { delete[] workers; }
    long searches = 0;

    // ---- atoms
    long num_real = 0;
    Buffer<int> slot, kind, molecule;  // of each real atom: b * A + a, element, b
    Buffer<long> molecule_start;       // (B + 1) real atoms
    Buffer<int> present;               // (E) whether an element occurs
    Buffer<Lattice> lattice;           // (B) or one per molecule; only if periodic
    bool periodic = false;
    int num_species = 0;

    // ---- extended atoms: the real atom they copy, and how many lattice vectors away
    Buffer<int> source, shift, wrap;  // (m), (m, 3), (n, 3)
    long num_extended = 0;

    // ---- candidates of atom i: candidate[start[i] + elements[i * (E + 1) + e]] ..., for element e
    Buffer<long> start;
    Buffer<int> candidate, elements;

    // ---- where atoms are now
    Buffer<double> home, extended;  // (n, 4), (m, 4)

    // Brings the list up to date. Returns OK or BAD_INPUT, where the caller finds out what was wrong.
    int update(const SystemSpec& system, int num_species, double cutoff, double skin, int threads);

   private:
    long num_molecules = -1, num_atoms = 0;
    double reach = 0;
    bool usable = false;
    bool too_far = false;                    // an atom is more lattice vectors away than an int holds
    Buffer<int> kinds, kinds_then;           // (B, A)
    Buffer<double> position, position_then;  // (n, 3)
    Buffer<Lattice> lattice_then;
    Buffer<Grid> grid;
    Buffer<long> extended_start, tables;  // (B + 1), (all beginnings)
    Buffer<int> self;                     // extended atom that is the real atom itself
    Buffer<double> sorted[3];             // positions of extended atoms

    struct Worker {
        Buffer<int> found;
        long used = 0;
        Buffer<double> fractional;
        Buffer<double> unsorted;
        Buffer<int> source, shift;
        Buffer<long> bin;
    };
    Worker* workers = nullptr;
    int num_workers = 0;
    Buffer<long> found_at;
    Buffer<int> found_by;

    int read(const SystemSpec& system);
    int read_cells(const SystemSpec& system);
    bool still_valid(double cutoff, double skin) const;
    void search(int threads);
    void place(Worker& worker, long b);
    void find(Worker& worker, long i);
    void move(int threads);
};

}  // namespace ANIPOT_ISA
