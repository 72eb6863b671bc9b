//! A small tree as an image, read back.

use std::os::unix::net::UnixListener;
use std::path::Path;

use super::opened::Opened;
use super::*;

const MTIME: u64 = 1_796_000_000;

fn tree() -> Tree {
    Tree::new_in(&env::temp_dir()).unwrap()
}

/// Debian's, in small.
fn lower() -> Tree {
    let tree = tree();
    tree.folder("usr/bin").unwrap();
    tree.link("bin", "usr/bin").unwrap();
    tree.file("usr/bin/dash", 0o755, b"#!").unwrap();
    tree.link("usr/bin/sh", "dash").unwrap();
    tree.file("usr/bin/su", 0o4755, b"su").unwrap();
    tree.file("etc/nötig/a", 0o640, b"secret").unwrap();
    // Beyond the 100 bytes that a name has in a header.
    let long = format!("etc/{}/file", "long".repeat(40));
    tree.file(&long, 0o644, b"").unwrap();
    tree
}

fn upper() -> Tree {
    let tree = tree();
    tree.file("flannel", 0o755, b"plugin").unwrap();
    tree.file("usr/bin/agent", 0o755, &[7; 100_000]).unwrap();
    tree
}

fn pack(tree: &Tree) -> Layer {
    Layer::pack(tree.path(), MTIME, "a test".to_owned()).unwrap()
}

fn archive(layers: &[Layer]) -> (Vec<u8>, String) {
    let name = "example.com/flannel:1".parse().unwrap();
    let image = Oci {
        name: &name,
        architecture: "amd64",
        entrypoint: &["/usr/bin/agent".to_owned()],
        command: &[],
        created: "2026-11-30T00:53:20Z",
        mtime: MTIME,
        layers: &layers.iter().collect::<Vec<_>>(),
    };
    let mut bytes = Vec::new();
    let mut digests = oci::write(&[image], &mut bytes).unwrap();
    (bytes, digests.remove(0))
}

/// Path, type, mode, owner, time and link of each entry.
fn entries(plain: &[u8]) -> Vec<(String, tar::EntryType, u32, u64, u64, Option<String>)> {
    let mut archive = tar::Archive::new(plain);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        let link = entry.link_name().unwrap();
        (
            entry.path().unwrap().to_str().unwrap().to_owned(),
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap() + header.gid().unwrap(),
            header.mtime().unwrap(),
            link.map(|link| link.to_str().unwrap().to_owned()),
        )
    });
    entries.collect()
}

#[test]
fn the_archive_is_an_image_layout() {
    let (bytes, digest) = archive(&[pack(&lower()), pack(&upper())]);
    // Digests, sizes, diff_ids and media types are looked at by it.
    let opened = Opened::read(&*bytes).unwrap();
    let described = &opened.index["manifests"][0];
    assert_eq!(described["digest"], *digest);
    assert_eq!(described["platform"]["architecture"], "amd64");
    let names = &described["annotations"];
    assert_eq!(names["io.containerd.image.name"], "example.com/flannel:1");
    assert_eq!(names["org.opencontainers.image.ref.name"], "1");
    assert_eq!(opened.config["os"], "linux");
    assert_eq!(opened.config["created"], "2026-11-30T00:53:20Z");
    let config = &opened.config["config"];
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/agent"]));
    // As Docker's, with neither USER nor LABEL.
    assert_eq!(config["User"], serde_json::Value::Null);
    assert_eq!(config["Labels"], serde_json::Value::Null);
    let path = config["Env"][0].as_str().unwrap();
    assert!(
        path.split([':', '='])
            .any(|folder| folder == "/usr/local/bin")
    );
    assert_eq!(opened.config["history"].as_array().unwrap().len(), 2);
    let files = entries(&bytes);
    let names: Vec<&str> = files.iter().map(|(path, ..)| &**path).collect();
    assert_eq!(
        names[..4],
        ["oci-layout", "index.json", "blobs/", "blobs/sha256/"]
    );
    assert_eq!(names.len(), 4 + 4, "{names:?}");
    assert!(names[4..].is_sorted());
    for (path, _, _, owner, mtime, _) in &files {
        assert_eq!((*owner, *mtime), (0, MTIME), "{path}");
    }
}

#[test]
fn a_layer_has_the_trees_modes_and_links_and_is_roots() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let (bytes, _) = archive(&[pack(&lower())]);
    let opened = Opened::read(&*bytes).unwrap();
    let found = entries(&opened.layers[0]);
    let long = format!("etc/{}", "long".repeat(40));
    let file = format!("{long}/file");
    let expected = [
        ("bin", Symlink, 0o777, Some("usr/bin")),
        ("etc", Directory, 0o755, None),
        (&long, Directory, 0o755, None),
        (&file, Regular, 0o644, None),
        ("etc/nötig", Directory, 0o755, None),
        ("etc/nötig/a", Regular, 0o640, None),
        ("usr", Directory, 0o755, None),
        ("usr/bin", Directory, 0o755, None),
        ("usr/bin/dash", Regular, 0o755, None),
        ("usr/bin/sh", Symlink, 0o777, Some("dash")),
        ("usr/bin/su", Regular, 0o4755, None),
    ];
    let expected = expected.map(|(path, kind, mode, link)| {
        let link = link.map(str::to_owned);
        (path.to_owned(), kind, mode, 0, MTIME, link)
    });
    assert_eq!(found, expected);
}

/// Made anew, in another folder, at another time, in another order.
#[test]
fn the_same_files_give_the_same_bytes() {
    let first = archive(&[pack(&lower()), pack(&upper())]);
    let again = tree();
    again.file("usr/bin/agent", 0o755, &[7; 100_000]).unwrap();
    again.file("flannel", 0o755, b"plugin").unwrap();
    assert_eq!(archive(&[pack(&lower()), pack(&again)]), first);
    again.file("flannel", 0o755, b"Plugin").unwrap();
    assert_ne!(archive(&[pack(&lower()), pack(&again)]).1, first.1);
    again.file("flannel", 0o750, b"plugin").unwrap();
    assert_ne!(archive(&[pack(&lower()), pack(&again)]).1, first.1);
    // Neither a time nor a system in gzip's header (RFC 1952, 2.3.1).
    assert_eq!(pack(&again).bytes[4..8], [0; 4]);
    assert_eq!(pack(&again).bytes[9], 255);
}

#[test]
fn what_was_changed_on_the_way_is_noticed() {
    let (bytes, _) = archive(&[pack(&upper())]);
    let mut archived = tar::Archive::new(&*bytes);
    let blobs: Vec<(u64, u64)> = archived
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.size() > 0 && entry.path().unwrap().starts_with("blobs"))
        .map(|entry| (entry.raw_file_position(), entry.size()))
        .collect();
    assert_eq!(blobs.len(), 3);
    for (start, size) in blobs {
        let mut damaged = bytes.clone();
        damaged[usize::try_from(start + size - 1).unwrap()] ^= 1;
        let error = Opened::read(&*damaged).unwrap_err().to_string();
        assert!(error.contains("not of this digest"), "{error}");
    }
}

#[test]
fn layers_lie_one_upon_another() {
    let (bytes, _) = archive(&[pack(&lower()), pack(&upper())]);
    let root = tree();
    Opened::read(&*bytes).unwrap().unpack(root.path()).unwrap();
    assert_eq!(fs::read(root.at("/bin/agent")).unwrap(), [7; 100_000]);
    assert_eq!(fs::read(root.at("/bin/sh")).unwrap(), b"#!");
    let mode = fs::metadata(root.at("usr/bin/su")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o7777, 0o4755);
}

#[test]
fn what_no_image_can_have_is_named() {
    let tree = tree();
    let _socket = UnixListener::bind(tree.at("socket")).unwrap();
    let error = Layer::pack(tree.path(), 0, String::new()).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("/socket") && error.contains("leave it out"),
        "{error}"
    );
}

fn recipe() -> Recipe {
    Recipe::parse(include_str!("../../../deploy/Dockerfile")).unwrap()
}

/// What the Dockerfile copies is what is there, under the same names, and everybody may run it.
#[test]
fn our_layer_is_what_the_dockerfile_copies() {
    let (root, recipe) = (tree(), recipe());
    let missing = stage_ours(&tree(), &recipe, root.path())
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("there is no target/release/flannel-agent: build it"),
        "{missing}"
    );
    for (from, _) in &recipe.copies {
        root.file(from, 0o700, from.as_bytes()).unwrap();
    }
    let ours = tree();
    stage_ours(&ours, &recipe, root.path()).unwrap();
    for (from, to) in &recipe.copies {
        assert_eq!(fs::read_to_string(ours.at(to)).unwrap(), *from);
        let mode = fs::metadata(ours.at(to)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
    let mut other = recipe;
    other.entrypoint = vec!["/bin/true".to_owned()];
    let error = stage_ours(&tree(), &other, root.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("no COPY brings /bin/true"), "{error}");
}

/// What is built, the plugin by a verb and the agent by cargo, is where the Dockerfile takes it from.
#[test]
fn the_dockerfile_takes_what_is_built() {
    let workspace = Workspace::at("/w");
    let taken = recipe()
        .copies
        .into_iter()
        .map(|(from, _)| Path::new("/w").join(from));
    let taken: Vec<PathBuf> = taken.collect();
    assert_eq!(
        taken,
        [
            workspace.root().join("target/release/flannel-agent"),
            workspace.cni_plugin()
        ]
    );
}

#[test]
fn the_time_is_what_is_given_or_the_last_commits() {
    let commit = || Ok("17".to_owned());
    assert_eq!(epoch(Some("5"), commit).unwrap(), 5);
    assert_eq!(epoch(None, commit).unwrap(), 17);
    let error = epoch(Some("today"), commit).unwrap_err().to_string();
    assert!(
        error.contains("SOURCE_DATE_EPOCH says \"today\""),
        "{error}"
    );
    let error = epoch(None, || bail!("no git")).unwrap_err().to_string();
    assert!(error.contains("set SOURCE_DATE_EPOCH"), "{error}");
    assert_eq!(rfc3339(MTIME).unwrap(), "2026-11-30T00:53:20Z");
}

#[test]
fn another_system_is_told_where_to_go() {
    let debian = "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n";
    check_release(debian, "12").unwrap();
    let error = check_release(debian, "13").unwrap_err().to_string();
    assert!(
        error.contains("is debian 12") && error.contains("run this on Debian 13"),
        "{error}"
    );
    assert!(check_release("ID=fedora\nVERSION_ID=12\n", "12").is_err());
    assert_eq!(architecture("aarch64").unwrap(), "arm64");
    assert!(architecture("riscv64").is_err());
}

#[test]
fn several_images_share_their_layers_and_keep_their_names() {
    let plain = layer::plain(lower().path(), MTIME).unwrap();
    let (shared, own) = (Layer::stored(plain, "a test".to_owned()), pack(&upper()));
    assert_eq!(shared.diff_id, format!("sha256:{}", shared.digest));
    let names = ["a.example/one:1", "a.example/two:2"].map(|name| name.parse().unwrap());
    let command = ["pause".to_owned()];
    let image = |name, command, layers| Oci {
        name,
        architecture: "amd64",
        entrypoint: &[],
        command,
        created: "2026-11-30T00:53:20Z",
        mtime: MTIME,
        layers,
    };
    let layers = [&shared, &own];
    let images = [
        image(&names[0], &command[..], &layers[..1]),
        image(&names[1], &[][..], &layers[..]),
    ];
    let mut bytes = Vec::new();
    let digests = oci::write(&images, &mut bytes).unwrap();
    let files = entries(&bytes);
    // Two manifests, two configurations, and each layer once.
    assert_eq!(files.len(), 4 + 2 + 2 + 2, "{files:?}");
    let mut read = tar::Archive::new(&*bytes);
    let text = |wanted: &str, read: &mut tar::Archive<&[u8]>| {
        let mut entries = read.entries().unwrap().map(Result::unwrap);
        let mut entry = entries
            .find(|it| it.path().unwrap().to_str() == Some(wanted))
            .unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let index = text("index.json", &mut read);
    for (number, digest) in digests.iter().enumerate() {
        let described = &index["manifests"][number];
        assert_eq!(described["digest"], **digest);
        let name = &described["annotations"]["io.containerd.image.name"];
        assert_eq!(*name, *names[number].full);
        let blob = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        let manifest = text(&blob(digest), &mut tar::Archive::new(&*bytes));
        assert_eq!(manifest["layers"][0]["mediaType"], layer::STORED);
        let config = manifest["config"]["digest"].as_str().unwrap();
        let config = text(&blob(config), &mut tar::Archive::new(&*bytes));
        let given = &config["config"]["Cmd"];
        let expected = [serde_json::json!(["pause"]), serde_json::Value::Null];
        assert_eq!(*given, expected[number]);
    }
}
