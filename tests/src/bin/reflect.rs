//! The server of a crowd, a process of its own: both ends of ten thousand connections are more files than one may have.

fn main() {
    flannel_tests::crowd::serve();
}
