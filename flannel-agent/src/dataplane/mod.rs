//! Everything that touches BPF: the object, its maps, its programs and where they are attached.

mod wire;

pub use wire::Wire;
