//! The archive: an OCI image layout (image-spec v1.1, image-layout.md) in a tar file.

use std::borrow::Cow;
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

/// Debian's images have it, so `flannel-agent` is found by `kubectl exec`.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is written.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) name: &'a Name,
    /// In Go's words, as the specification wants: `amd64`.
    pub(super) architecture: &'a str,
    pub(super) entrypoint: &'a [String],
    /// What it is given, or what is run where there is no entry point, if nothing is asked for.
    pub(super) command: &'a [String],
    /// As RFC 3339, and as seconds since 1970.
    pub(super) created: &'a str,
    pub(super) mtime: u64,
    /// The lowest first.
    pub(super) layers: &'a [&'a Layer],
}

/// What is named by the hash of its bytes.
struct Blob<'a> {
    media_type: &'static str,
    digest: String,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Blob<'a> {
    fn of(media_type: &'static str, text: &Value) -> Self {
        let bytes = text.to_string().into_bytes();
        Self {
            media_type,
            digest: sha256(&bytes),
            bytes: bytes.into(),
        }
    }

    fn layer(layer: &'a Layer) -> Self {
        Self {
            media_type: layer.media_type,
            digest: layer.digest.clone(),
            bytes: Cow::Borrowed(&layer.bytes),
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
    fn config(&self) -> Value {
        let mut config = json!({"Env": [PATH], "Entrypoint": self.entrypoint, "WorkingDir": "/"});
        if !self.command.is_empty() {
            config["Cmd"] = json!(self.command);
        }
        let history = |layer: &Layer| json!({"created": self.created, "created_by": layer.made_by});
        json!({
            "created": self.created,
            "architecture": self.architecture,
            "os": "linux",
            "config": config,
            "rootfs": {
                "type": "layers",
                "diff_ids": self.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
            },
            "history": self.layers.iter().copied().map(history).collect::<Vec<_>>(),
        })
    }

    /// What the index says of it.
    fn described(&self, manifest: &Blob<'_>) -> Value {
        let mut descriptor = manifest.descriptor();
        descriptor["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        descriptor["annotations"] = json!({
            // Where containerd's import and podman look, and where skopeo does.
            "io.containerd.image.name": self.name.full,
            "org.opencontainers.image.ref.name": self.name.tag,
        });
        descriptor
    }
}

/// Several images in one archive share their layers. Returns their digests.
pub(super) fn write(images: &[Image<'_>], to: impl Write) -> Result<Vec<String>> {
    let mtime = images.first().context("no image")?.mtime;
    let mut blobs = Vec::new();
    let (mut described, mut digests) = (Vec::new(), Vec::new());
    for image in images {
        let layers: Vec<Blob<'_>> = image.layers.iter().map(|it| Blob::layer(it)).collect();
        let config = Blob::of(CONFIG, &image.config());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::of(MANIFEST, &manifest);
        digests.push(format!("sha256:{}", manifest.digest));
        described.push(image.described(&manifest));
        blobs.extend([manifest, config].into_iter().chain(layers));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": described}).to_string();
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
    blobs.sort_by(|one, other| one.digest.cmp(&other.digest));
    // Two layers may be the same.
    blobs.dedup_by(|one, other| one.digest == other.digest);
    let mut archive = tar::Builder::new(to);
    append(&mut archive, mtime, "oci-layout", layout.as_bytes())?;
    append(&mut archive, mtime, "index.json", index.as_bytes())?;
    append(&mut archive, mtime, "blobs/", &[])?;
    append(&mut archive, mtime, "blobs/sha256/", &[])?;
    for blob in blobs {
        let path = format!("blobs/sha256/{}", blob.digest);
        append(&mut archive, mtime, &path, &blob.bytes)?;
    }
    let mut to = archive.into_inner().context("cannot write the archive")?;
    to.flush().context("cannot write the archive")?;
    Ok(digests)
}

/// A path that ends in a slash is a folder's.
fn append(
    archive: &mut tar::Builder<impl Write>,
    mtime: u64,
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
    header.set_mtime(mtime);
    header.set_size(contents.len() as u64);
    archive
        .append_data(&mut header, path, contents)
        .with_context(|| format!("cannot write {path} into the archive"))
}
