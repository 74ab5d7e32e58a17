"""The experiments of the IVON paper, declared as data and run by one engine."""
