"""The machine: threads, devices, dask clusters, batch jobs, other libraries' messages and the extras they come with."""
