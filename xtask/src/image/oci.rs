//! The archive: an OCI image layout (image-spec v1.1, image-layout.md) in a tar file.

use std::io::Write;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::layer::Layer;
use super::name::Name;
use crate::builder::sha256;

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Debian's images have it, so `flannel-agent` is found by `kubectl exec`.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is written.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) name: &'a Name,
    /// In Go's words, as the specification wants: `amd64`.
    pub(super) architecture: &'a str,
    pub(super) entrypoint: &'a [String],
    /// As RFC 3339, and as seconds since 1970.
    pub(super) created: &'a str,
    pub(super) mtime: u64,
    /// The lowest first.
    pub(super) layers: &'a [Layer],
}

/// What is named by the hash of its bytes.
struct Blob<'a> {
    media_type: &'static str,
    digest: String,
    bytes: &'a [u8],
}

impl<'a> Blob<'a> {
    fn of(media_type: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            media_type,
            digest: sha256(bytes),
            bytes,
        }
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

impl Image<'_> {
    /// Returns the manifest's digest, which names the image.
    pub(super) fn write(&self, to: impl Write) -> Result<String> {
        let layers = self.layers.iter().map(|it| Blob::of(LAYER, &it.bytes));
        let layers: Vec<Blob<'_>> = layers.collect();
        let config = self.config().to_string();
        let config = Blob::of(CONFIG, config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        })
        .to_string();
        let manifest = Blob::of(MANIFEST, manifest.as_bytes());
        let digest = format!("sha256:{}", manifest.digest);
        let index = self.index(&manifest).to_string();
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();

        let mut blobs: Vec<Blob<'_>> = [manifest, config].into_iter().chain(layers).collect();
        blobs.sort_by(|one, other| one.digest.cmp(&other.digest));
        // Two layers may be the same.
        blobs.dedup_by(|one, other| one.digest == other.digest);
        let mut archive = tar::Builder::new(to);
        self.append(&mut archive, "oci-layout", layout.as_bytes())?;
        self.append(&mut archive, "index.json", index.as_bytes())?;
        self.append(&mut archive, "blobs/", &[])?;
        self.append(&mut archive, "blobs/sha256/", &[])?;
        for blob in blobs {
            let path = format!("blobs/sha256/{}", blob.digest);
            self.append(&mut archive, &path, blob.bytes)?;
        }
        let mut to = archive.into_inner().context("cannot write the archive")?;
        to.flush().context("cannot write the archive")?;
        Ok(digest)
    }

    fn config(&self) -> Value {
        let history = |layer: &Layer| json!({"created": self.created, "created_by": layer.made_by});
        json!({
            "created": self.created,
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Env": [PATH], "Entrypoint": self.entrypoint, "WorkingDir": "/"},
            "rootfs": {
                "type": "layers",
                "diff_ids": self.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
            },
            "history": self.layers.iter().map(history).collect::<Vec<_>>(),
        })
    }

    fn index(&self, manifest: &Blob<'_>) -> Value {
        let mut descriptor = manifest.descriptor();
        descriptor["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        descriptor["annotations"] = json!({
            // Where containerd's import and podman look, and where skopeo does.
            "io.containerd.image.name": self.name.full,
            "org.opencontainers.image.ref.name": self.name.tag,
        });
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]})
    }

    /// A path that ends in a slash is a folder's.
    fn append(
        &self,
        archive: &mut tar::Builder<impl Write>,
        path: &str,
        contents: &[u8],
    ) -> Result<()> {
        let mut header = Header::new_gnu();
        let (kind, mode) = match path.ends_with('/') {
            true => (EntryType::Directory, 0o755),
            false => (EntryType::Regular, 0o644),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        header.set_size(contents.len() as u64);
        archive
            .append_data(&mut header, path, contents)
            .with_context(|| format!("cannot write {path} into the archive"))
    }
}
