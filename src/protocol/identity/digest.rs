//! SHA-256, streaming or at once, and its upper-case hex text.
//!
//! Measured on x86-64, aws-lc and the `sha2` crate are equally fast (0.19 µs for 300 bytes, 1.6
//! GB/s for long input). aws-lc is taken because it is as fast in debug builds and on aarch64,
//! where `sha2` computes in software.

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXUPPER;

/// A SHA-256 computation that takes its input in pieces.
pub struct Sha256(Context);

impl Sha256 {
    /// Starts with no input.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds input.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the computation.
    pub fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// Hashes one piece of input.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    hasher.finish()
}

/// Returns the 64 upper-case hex digits that tokens carry.
pub fn hex_upper(hash: &[u8; 32]) -> String {
    HEXUPPER.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_core_module_has_the_known_hash() {
        let module = b"\0asm\x01\0\0\0";
        let known = "93A44BBB96C751218E4C00D479E4C14358122A389ACCA16205B1E4D0DC5F9476";
        assert_eq!(hex_upper(&sha256(module)), known);

        let mut pieces = Sha256::new();
        module.iter().for_each(|byte| pieces.update(&[*byte]));
        assert_eq!(hex_upper(&pieces.finish()), known);
    }
}
