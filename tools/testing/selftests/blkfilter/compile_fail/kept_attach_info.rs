// SPDX-License-Identifier: GPL-2.0
//~ E0521: what attach is told is not kept
fn attach(info: AttachInfo<'_>) {
    needs_static(info.device()); //~ bad
    let _ = info.device().nr_sectors(); //~ good
}
