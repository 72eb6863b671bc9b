// Stands in for a module that module proxies refuse. Only flannel's tencent-vpc backend imports it, and
// `cargo xtask setup` takes that backend out.
module github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/vpc

go 1.24
