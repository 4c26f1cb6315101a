"""Found in place of the library of this name: jsonschema's check of IRIs, optional, takes seconds to import in every
process that reads a notebook, and no schema here asks for it."""

raise ImportError("not needed in tests")
