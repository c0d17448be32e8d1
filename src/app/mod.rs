//! The composition root: the only place where modules are wired together.
