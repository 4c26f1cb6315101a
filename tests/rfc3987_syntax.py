"""Found in place of the library of this name: jsonschema's check of IRIs, optional, takes seconds to import, and no
schema here asks for it. ``datalab.record`` keeps it out, but plugins of pytest read notebooks before."""

raise ImportError("not needed in tests")
