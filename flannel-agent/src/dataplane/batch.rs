//! Reading maps by hand: many entries at a time, or a value whose size is known at run time only.
//!
//! Going from key to key (`BPF_MAP_GET_NEXT_KEY`) starts over when somebody deletes the key at hand, and a
//! table of flows changes all the time. `BPF_MAP_LOOKUP_BATCH` goes from bucket to bucket instead, each
//! copied under its lock (`__htab_map_lookup_and_delete_batch`), and marks no entry as used.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::MapData;
use aya_obj::generated::{bpf_attr, bpf_cmd};
use bytemuck::Pod;

/// The value of key 0 in an array map of one entry, such as `.rodata`.
pub(in crate::dataplane) fn first_value(map: &MapData) -> io::Result<Vec<u8>> {
    let info = map.info().map_err(io::Error::other)?;
    let mut value = vec![0_u8; info.value_size() as usize];
    let key = 0_u32;
    let mut attr = zeroed();
    // SAFETY: every field of this member is plain data, and the attribute was zeroed.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.fd().as_fd().as_raw_fd().cast_unsigned();
    element.key = address(&raw const key);
    element.__bindgen_anon_1.value = address(value.as_mut_ptr());
    // SAFETY: `attr` leads to a key of an array's size and to a buffer of the value's size (the map has
    // one value, not one per CPU: the caller promises), both alive through the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(value)
}

/// Entries asked for at once; must hold the fullest bucket, else the kernel says `ENOSPC`.
const AT_ONCE: u32 = 4096;

/// Goes through all entries. What is written meanwhile may or may not be seen.
#[derive(Debug)]
pub(in crate::dataplane) struct Batches<'a, K, V> {
    map: &'a MapData,
    /// The kernel's own bookmark: for hash maps the number of the next bucket.
    bookmark: Option<u32>,
    done: bool,
    types: PhantomData<(K, V)>,
}

impl<'a, K: Pod, V: Pod> Batches<'a, K, V> {
    /// `map` must be a hash map with keys and values of these sizes.
    pub(in crate::dataplane) fn of(map: &'a MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(io::Error::other(format!(
                "keys and values have {sizes:?} bytes and not {:?}",
                (size_of::<K>(), size_of::<V>())
            )));
        }
        Ok(Self {
            map,
            bookmark: None,
            done: false,
            types: PhantomData,
        })
    }

    fn read(&mut self) -> io::Result<Vec<(K, V)>> {
        let mut keys = vec![K::zeroed(); AT_ONCE as usize];
        let mut values = vec![V::zeroed(); AT_ONCE as usize];
        let mut next = 0_u32;
        let start = self.bookmark;
        let mut attr = zeroed();
        // SAFETY: every field of this member is plain data, and the attribute was zeroed.
        let batch = unsafe { &mut attr.batch };
        batch.in_batch = start.as_ref().map_or(0, |start| address(start));
        batch.out_batch = address(&raw mut next);
        batch.keys = address(keys.as_mut_ptr());
        batch.values = address(values.as_mut_ptr());
        batch.count = AT_ONCE;
        batch.map_fd = self.map.fd().as_fd().as_raw_fd().cast_unsigned();
        // SAFETY: every pointer in `attr` leads to a buffer above that lives through the call; `of` has
        // compared the sizes with the map's, and `count` is the length of both arrays.
        let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
        match result {
            // ENOENT: that was the last bucket. What it held has been copied.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.done = true,
            other => other?,
        }
        self.bookmark = Some(next);
        // SAFETY: the kernel writes `count` on every return that gets here.
        let count = unsafe { attr.batch.count };
        Ok(keys.into_iter().zip(values).take(count as usize).collect())
    }
}

/// # Safety
/// Every pointer in `attr` that the command uses must lead to as many bytes, alive through the call, as the kernel
/// reads or writes there.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: `attr` is of the size that is given; where it leads to is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: every member is plain data, for which zeroes are a value; the kernel wants unused fields so.
    unsafe { std::mem::zeroed() }
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

impl<K: Pod, V: Pod> Iterator for Batches<'_, K, V> {
    type Item = io::Result<Vec<(K, V)>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let batch = self.read();
        self.done |= batch.is_err();
        Some(batch)
    }
}
