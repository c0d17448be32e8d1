//! Tests of the binary as a child process: exit codes, signals, files, standard output, and several of them together.

#[cfg(test)]
mod demo;
