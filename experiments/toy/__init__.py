"""Pictures of what IVON learns: Figure 3c of the paper (Sec. 4.2) and the surface of the tutorial.

The paper's notebook for Figure 3c is not public, so data, network and settings are ours, as is the surface.
Both are small enough that their posteriors are known, exactly or from Hamiltonian Monte Carlo.
"""
