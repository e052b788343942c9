/** TensorFlow's wheels, and NVIDIA's libraries for the GPU build: exactly which files make a runtime. */
import type { PlatformTags, Wheel } from './pip.js';

/** TensorFlow's version, and that of the addon that is compiled against it. */
export const RUNTIME_VERSIONS = { tensorflow: '2.21.0', tfjs: '4.22.0' } as const;

/** A build of the runtime. */
export interface RuntimeBuild {
  readonly tensorflow: Wheel;
  /** CUDA and its companions; none for the CPU. */
  readonly nvidia: readonly Wheel[];
  /** Free space that set-up needs while it works; it ends with about two thirds of it. */
  readonly workBytes: number;
}

const TENSORFLOW_TAGS: PlatformTags = { pythonVersion: '3.12', platform: 'manylinux_2_27_x86_64' };

/** Second tags that NVIDIA writes into its file names beside the numbered ones. */
const LEGACY_TAG: Readonly<Record<string, string>> = {
  manylinux_2_17: 'manylinux2014_x86_64.',
  manylinux_2_12: 'manylinux2010_x86_64.',
};

const CPU: RuntimeBuild = {
  tensorflow: {
    name: 'tensorflow-cpu',
    version: RUNTIME_VERSIONS.tensorflow,
    file: 'tensorflow_cpu-2.21.0-cp312-cp312-manylinux_2_27_x86_64.whl',
    sha256: 'dcc8afd32930e42d5296b6ee19078b773706830af4ea97fbe503b9f5e0f820cb',
    sizeBytes: 274_000_871,
    platformTags: TENSORFLOW_TAGS,
  },
  nvidia: [],
  workBytes: 1_800_000_000, // wheel 0.27, libraries 0.85, headers 0.29, npm packages 0.31 GB
};

/**
 * The GPU build: versions as pip resolved `tensorflow[and-cuda]==2.21.0`. Compiles, and loads where there is no GPU;
 * **not yet run on a GPU.**
 */
const GPU: RuntimeBuild = {
  tensorflow: {
    name: 'tensorflow',
    version: RUNTIME_VERSIONS.tensorflow,
    file: 'tensorflow-2.21.0-cp312-cp312-manylinux_2_27_x86_64.whl',
    sha256: 'b3b95643c4e70eb925839938fb35cbe142f317ec84af6844ee61513713bb13c0',
    sizeBytes: 572_611_111,
    platformTags: TENSORFLOW_TAGS,
  },
  nvidia: [
    nvidia(
      'cublas',
      '12.9.3.13',
      'manylinux_2_27',
      581_217_458,
      'd7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72',
    ),
    nvidia(
      'cuda_cupti',
      '12.8.90',
      'manylinux_2_17',
      10_248_621,
      'ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182',
    ),
    nvidia(
      'cuda_nvcc',
      '12.9.86',
      'manylinux_2_12',
      40_546_229,
      '5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0',
    ),
    nvidia(
      'cuda_nvrtc',
      '12.9.86',
      'manylinux_2_12',
      89_568_129,
      '210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4',
    ),
    nvidia(
      'cuda_runtime',
      '12.9.79',
      'manylinux_2_17',
      3_493_179,
      '25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3',
    ),
    nvidia(
      'cudnn',
      '9.28.0.42',
      'manylinux_2_27',
      716_538_495,
      '9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375',
    ),
    nvidia(
      'cufft',
      '11.4.1.4',
      'manylinux_2_17',
      200_877_592,
      'c67884f2a7d276b4b80eb56a79322a95df592ae5e765cf1243693365ccab4e28',
    ),
    nvidia(
      'curand',
      '10.3.10.19',
      'manylinux_2_27',
      68_295_626,
      '49b274db4780d421bd2ccd362e1415c13887c53c214f0d4b761752b8f9f6aa1e',
    ),
    nvidia(
      'cusolver',
      '11.7.5.82',
      'manylinux_2_27',
      338_117_415,
      '15da72d1340d29b5b3cf3fd100e3cd53421dde36002eda6ed93811af63c40d88',
    ),
    nvidia(
      'cusparse',
      '12.5.10.65',
      'manylinux_2_17',
      366_465_088,
      '73060ce019ac064a057267c585bf1fd5a353734151f87472ff02b2c5c9984e78',
    ),
    nvidia(
      'nccl',
      '2.32.3',
      'manylinux_2_27',
      351_526_311,
      'bb94b2348e4861d5e8aa00b36c3d12d9bdf9c6369b82cbb723de0b582280a21c',
    ),
    nvidia(
      'nvjitlink',
      '12.9.86',
      'manylinux_2_12',
      39_748_338,
      'e3f1171dbdc83c5932a45f0f4c99180a70de9bd2718c1ab77d14104f6d7147f9',
    ),
  ],
  workBytes: 10_000_000_000, // wheels 3.4, TensorFlow's libraries and headers 1.6, NVIDIA's 4.4, npm packages 0.3 GB
};

/** What makes the runtime of a device. */
export const RUNTIME_BUILDS: Readonly<Record<'cpu' | 'gpu', RuntimeBuild>> = { cpu: CPU, gpu: GPU };

function nvidia(part: string, version: string, system: string, sizeBytes: number, sha256: string): Wheel {
  const platform = `${system}_x86_64`;
  return {
    name: `nvidia-${part.replaceAll('_', '-')}-cu12`,
    version,
    file: `nvidia_${part}_cu12-${version}-py3-none-${LEGACY_TAG[system] ?? ''}${platform}.whl`,
    sha256,
    sizeBytes,
    platformTags: { pythonVersion: '3.12', platform, implementation: 'py', abi: 'none' },
  };
}
