"""The benchmarks: run one as a module from the root of the repository; README.md beside this file lists them."""
