//! The agent's binary for users who are not root.

use std::path::PathBuf;

use crate::agent::binary;

/// A copy where everybody may execute it, wherever the build tree is.
#[derive(Debug)]
pub struct Copy(PathBuf);

impl Default for Copy {
    fn default() -> Self {
        Self::new()
    }
}

impl Copy {
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let file = tempfile::Builder::new()
            .prefix("flannel-agent")
            .tempfile()
            .expect("a file");
        std::fs::copy(binary(), file.path()).expect("copy the agent");
        // Nobody may have it open for writing while it runs.
        let (_, path) = file.keep().expect("keep the copy");
        Self(path)
    }

    /// A command line that runs it as nobody.
    #[must_use]
    pub fn line(&self, arguments: &str) -> String {
        format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups {} {arguments}",
            self.0.display()
        )
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left is a file in /tmp.
        let _ = std::fs::remove_file(&self.0);
    }
}
