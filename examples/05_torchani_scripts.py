"""The listings of the TorchANI paper (doi:10.1021/acs.jcim.0c00451) in their spirit, with the import changed.

Run: python 05_torchani_scripts.py  (needs the weights of ani1ccx)
"""

import torch

from anipot.compat import torchani  # this line was: import torchani

model = torchani.models.ANI1ccx(periodic_table_index=True).double()

coordinates = torch.tensor(
    [[[0.03, 0.006, 0.01], [-0.8, 0.4, -0.3], [-0.7, -0.8, 0.2], [0.5, 0.5, 0.8], [0.7, -0.2, -0.9]]],
    dtype=torch.float64,
    requires_grad=True,
)
species = torch.tensor([[6, 1, 1, 1, 1]])

# Energy and forces
_, energies = model((species, coordinates))
forces = -torch.autograd.grad(energies.sum(), coordinates, create_graph=True)[0]
print(f"energy: {energies.item():.10f} Hartree")
print(f"largest force component: {forces.abs().max().item():.6f} Hartree/Å")

# One member of the ensemble
_, energies_of_first = model[0]((species, coordinates))
print(f"first member: {energies_of_first.item():.10f} Hartree")

# Hessian and vibrations. This methane is no stationary point, so that the lowest frequencies are imaginary: NaN with
# TorchANI, negative numbers here.
hessian = torchani.utils.hessian(coordinates, forces=forces)
masses = torchani.utils.get_atomic_masses(species)
freqs, modes, fconstants, rmasses = torchani.utils.vibrational_analysis(masses, hessian, mode_type="MDU")
print("frequencies, cm⁻¹:", ", ".join(f"{freq:.1f}" for freq in freqs.tolist()))

# Stress: the derivative with respect to a scaling of cell and coordinates
cell = 6.0 * torch.eye(3, dtype=torch.float64)
pbc = torch.tensor([True, True, True])
scaling = torch.eye(3, dtype=torch.float64, requires_grad=True)
_, energies = model((species, coordinates @ scaling), cell=cell @ scaling, pbc=pbc)
stress = torch.autograd.grad(energies.sum(), scaling)[0] / torch.linalg.det(cell)
print(f"trace of the stress: {stress.trace().item():.8f} Hartree/Å³")

# Training on forces: the loss is differentiated through the forces
network = torchani.nn.Sequential(torchani.SpeciesConverter(model.species), model.aev_computer, model.neural_networks[0])
_, energies = network((species, coordinates))
forces = -torch.autograd.grad(energies.sum(), coordinates, create_graph=True, retain_graph=True)[0]
true_forces = torch.zeros_like(forces)
num_atoms = (species >= 0).sum(dim=1, dtype=forces.dtype)
loss = ((true_forces - forces).pow(2).sum(dim=(1, 2)) / num_atoms).mean()
loss.backward()
norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
print(f"force loss: {loss.item():.6f}, norm of its gradient: {norm.item():.6f}")
