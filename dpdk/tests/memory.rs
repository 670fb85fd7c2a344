//! Devices that share memory with another process, on ordinary pages.

mod common;
#[path = "common/memory.rs"]
mod memory;

#[test]
fn shared_on_ordinary_pages() {
    let eal = common::eal("memory");
    memory::all(&eal);

    let packets = common::pool(&eal, "few", 511);
    let error = eal
        .attach("net_virtio_user8,path=/nosuch/socket")
        .unwrap_err();
    assert!(
        error.to_string().contains("No such file or directory"),
        "{error}"
    );
    let device = eal.attach("net_vhost8,iface=/nosuch/socket").unwrap();
    let error = device
        .configure(&Default::default(), &[packets])
        .unwrap_err();
    assert!(error.to_string().contains("failed to bind"), "{error}");
}
