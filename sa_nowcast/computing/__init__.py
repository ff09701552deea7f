"""The machine: threads, devices, dask clusters, batch jobs, other libraries' messages and how to install them."""
