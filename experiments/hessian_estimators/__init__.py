"""IVON with other estimators of the Hessian: Table 7 of the paper."""
