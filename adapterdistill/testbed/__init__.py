"""Small deployments on loopback that the demo, the benchmarks, the drills and the tests share.

Registry and serving processes, banks of FAQs, random adapters, a tiny encoder, a faulty proxy, load
over HTTP, and the writing of reports.
"""
