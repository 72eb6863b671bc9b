//! An archive read as a runtime reads it: each blob by its digest and size, each layer by its diff_id.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::{layer, oci};
use crate::builder::sha256;

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) index: Value,
    pub(super) config: Value,
    /// Tar files.
    pub(super) layers: Vec<Vec<u8>>,
}

/// Path → contents.
type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Opened {
    pub(super) fn read(archive: impl Read) -> Result<Self> {
        let mut files = Files::new();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().context("it is no tar file")? {
            let mut entry = entry.context("it is no whole tar file")?;
            let path = entry.path().context("a name in it")?.into_owned();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).context("it is cut off")?;
            files.insert(path, contents);
        }
        let layout = json(file(&files, "oci-layout")?)?;
        ensure!(layout["imageLayoutVersion"] == "1.0.0", "layout: {layout}");
        let index = json(file(&files, "index.json")?)?;
        ensure!(index["mediaType"] == oci::INDEX, "index.json: {index}");
        let manifest = json(blob(&files, &index["manifests"][0], oci::MANIFEST)?)?;
        let version = &manifest["schemaVersion"];
        ensure!(*version == 2, "schemaVersion of the manifest: {version}");
        let config = json(blob(&files, &manifest["config"], oci::CONFIG)?)?;
        let described = manifest["layers"].as_array().context("no layers")?;
        let ids = config["rootfs"]["diff_ids"].as_array();
        let ids = ids.context("no diff_ids")?;
        ensure!(ids.len() == described.len(), "diff_ids: {ids:?}");
        let mut layers = Vec::new();
        for (descriptor, id) in described.iter().zip(ids) {
            let packed = blob(&files, descriptor, layer::COMPRESSED)?;
            let mut plain = Vec::new();
            GzDecoder::new(packed)
                .read_to_end(&mut plain)
                .with_context(|| format!("layer {descriptor}"))?;
            let is = format!("sha256:{}", sha256(&plain));
            ensure!(*id == is, "the layer of diff_id {id} has {is}");
            layers.push(plain);
        }
        Ok(Self {
            index,
            config,
            layers,
        })
    }

    /// The root that a container would have. Needs root where a layer has files of root's.
    pub(super) fn unpack(&self, to: &Path) -> Result<()> {
        for layer in &self.layers {
            let mut archive = tar::Archive::new(&**layer);
            archive.set_preserve_permissions(true);
            archive
                .unpack(to)
                .with_context(|| format!("cannot unpack a layer into {}", to.display()))?;
        }
        Ok(())
    }
}

fn file<'a>(files: &'a Files, name: &str) -> Result<&'a [u8]> {
    let contents = files.get(Path::new(name));
    contents
        .map(Vec::as_slice)
        .with_context(|| format!("there is no {name} in it"))
}

fn json(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).context("a part that is no JSON")
}

/// What a descriptor is of.
fn blob<'a>(files: &'a Files, descriptor: &Value, media_type: &str) -> Result<&'a [u8]> {
    ensure!(
        descriptor["mediaType"] == media_type,
        "no {media_type}: {descriptor}"
    );
    let digest = descriptor["digest"]
        .as_str()
        .and_then(|it| it.strip_prefix("sha256:"));
    let digest = digest.with_context(|| format!("no digest: {descriptor}"))?;
    let contents = file(files, &format!("blobs/sha256/{digest}"))?;
    ensure!(
        descriptor["size"] == contents.len(),
        "not of this size: {descriptor}"
    );
    ensure!(
        sha256(contents) == digest,
        "not of this digest: {descriptor}"
    );
    Ok(contents)
}

/// The file at `path`.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let cannot = || format!("cannot read {}", path.display());
    Opened::read(fs::File::open(path).with_context(cannot)?).with_context(cannot)
}
