//! Compiles the schemas with protox, so that no protoc is needed.
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("schema");
    println!("cargo:rerun-if-changed=schema");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let set = protox::compile(&files, [root])?;
    // Hand-written in `lib.rs`: it holds a key.
    tonic_prost_build::configure().btree_map(".").skip_debug([".causeway.signing.v1.Authority"]).compile_fds(set)?;
    Ok(())
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            into.push(path);
        }
    }
    Ok(())
}
