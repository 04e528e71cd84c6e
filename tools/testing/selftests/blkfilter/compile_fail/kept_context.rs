// SPDX-License-Identifier: GPL-2.0
//~ E0521: where sleeping is allowed ends
fn process<'a>(cx: Context<'a, Good>) {
    needs_static(cx); //~ bad
    let _ = &cx; //~ good
}
